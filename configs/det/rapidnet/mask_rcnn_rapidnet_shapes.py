# Mask R-CNN with a small RapidNet on the embedded dataset: a complete training in minutes on two CPU
# cores, without any download.
#   python tools/train.py configs/det/rapidnet/mask_rcnn_rapidnet_shapes.py
_base_ = [
    '../_base_/models/mask_rcnn_shapes.py',
    '../../_base_/toys/rapidnet.py',
    '../_base_/shapes.py',
]

model = dict(backbone=_base_.toy_backbone, neck=dict(in_channels=_base_.toy_channels))
