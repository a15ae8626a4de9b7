# PaCa-ViT tiny on ImageNet-1k, 300 epochs.
# Published: top-1 80.9.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(arch='tiny'))
