# What all small classifiers on the embedded dataset share: data, schedule, runtime.
_base_ = ['./datasets/shapes.py', './schedules/schedule_shapes.py', './runtime.py']

num_classes = 6

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=2),
)
randomness = dict(seed=0)  # the same figures again on the same machine
