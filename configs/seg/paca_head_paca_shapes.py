# The PaCa head with a small PaCa-ViT on the embedded dataset: a complete training in minutes on two CPU
# cores, without any download.
#   python tools/train.py configs/seg/paca_head_paca_shapes.py
_base_ = [
    './_base_/models/paca_head.py',
    '../_base_/toys/paca.py',
    './_base_/shapes.py',
]

model = dict(
    backbone=_base_.toy_backbone,
    decode_head=dict(
        in_channels=_base_.toy_channels,
        channels=64,
        num_classes=7,  # the background is one
    ),
)
