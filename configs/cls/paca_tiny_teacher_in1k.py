# PaCa-ViT tiny, clusters by a teacher CNN, on ImageNet-1k, 300 epochs.
# No published result, and no published weights.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(arch='tiny_teacher'))
