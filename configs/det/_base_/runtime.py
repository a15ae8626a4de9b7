_base_ = '../../_base_/runtime.py'

default_scope = 'mmdet'
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))
visualizer = dict(type='DetLocalVisualizer')
# Boxes of an image and of its mirror image, with their masks: tools/test.py --tta, or mmdetection's own.
tta_model = dict(
    type='paca_mm.MaskTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
