# PaCa-ViT base on ImageNet-1k, 300 epochs.
# Published: top-1 83.96.
_base_ = './paca_small_in1k.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5),
    head=dict(in_channels=512),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
