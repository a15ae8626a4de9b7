# Mask R-CNN with a small ResNet of Attentive Normalization on the embedded dataset: a complete training
# on a CPU, without any download.
#   python tools/train.py configs/det/attentive_norm/mask_rcnn_an_shapes.py
_base_ = [
    '../_base_/models/mask_rcnn_shapes.py',
    '../../_base_/toys/attentive_norm.py',
    '../_base_/shapes.py',
]

model = dict(backbone=_base_.toy_backbone, neck=dict(in_channels=_base_.toy_channels))
