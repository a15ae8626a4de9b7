# PaCa-ViT base, clusters by a teacher CNN, on ImageNet-1k, 300 epochs.
# Published: top-1 84.22.
_base_ = './paca_small_in1k.py'

model = dict(
    backbone=dict(arch='base_teacher'),
    head=dict(in_channels=512),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
