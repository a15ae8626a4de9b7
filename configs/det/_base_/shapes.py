# What all small detectors on the embedded dataset share: data, schedule, runtime.
_base_ = ['./datasets/shapes.py', './schedules/schedule_shapes.py', './runtime.py']

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=3, max_keep_ckpts=2),
    visualization=dict(score_thr=0.5),
)
