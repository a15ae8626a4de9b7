# What all tasks share; <task>/_base_/runtime.py adds the task's scope, drawing and intervals.
runner_type = 'paca_mm.SafeRunner'  # mmengine's Runner; a kill never costs a saved checkpoint

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='paca_mm.SafeCheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    finite=dict(type='paca_mm.FiniteHook'),  # a step with a NaN in it is left out
    stop=dict(type='paca_mm.StopHook'),  # a signal saves before it ends the run
    # What the clusters of PaCa become, every so many epochs or iterations; 0 is never.
    clusters=dict(type='paca_mm.ClusterVisualizationHook', interval=0),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [
    dict(type='LocalVisBackend'),  # what paca-mm plot-log draws
    # dict(type='TensorboardVisBackend'),  # pip install tensorboard; tensorboard --logdir work_dirs
]
visualizer = dict(vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
