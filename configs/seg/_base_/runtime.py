_base_ = '../../_base_/runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000, max_keep_ckpts=3),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(cudnn_benchmark=True)  # images of one size
visualizer = dict(type='SegLocalVisualizer', alpha=0.6)
log_processor = dict(by_epoch=False)
tta_model = dict(type='SegTTAModel')
