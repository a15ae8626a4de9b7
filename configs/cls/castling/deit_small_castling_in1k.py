# DeiT-S with Castling's attention on ImageNet-1k, 300 epochs. Nobody has published its accuracy.
_base_ = './deit_tiny_castling_in1k.py'

model = dict(
    backbone=dict(vit=dict(arch='deit-small')),
    head=dict(in_channels=384),
)
