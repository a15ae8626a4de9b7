# Semantic FPN with a small RapidNet on the embedded dataset: a complete training in minutes on two CPU
# cores, without any download.
#   python tools/train.py configs/seg/rapidnet/fpn_rapidnet_shapes.py
_base_ = [
    '../_base_/models/fpn.py',
    '../../_base_/toys/rapidnet.py',
    '../_base_/shapes.py',
]

model = dict(
    backbone=_base_.toy_backbone,
    neck=dict(in_channels=_base_.toy_channels, out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=7,  # the background is one
    ),
)
