# What all small segmentors on the embedded dataset share: data, schedule, runtime.
_base_ = ['./datasets/shapes.py', './schedules/schedule_shapes.py', './runtime.py']

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=2),
)
