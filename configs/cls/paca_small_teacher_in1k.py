# PaCa-ViT small, clusters by a teacher CNN, on ImageNet-1k, 300 epochs.
# Published: top-1 83.17.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(arch='small_teacher'))
