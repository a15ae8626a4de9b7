# PaCa-ViT small, clusters by an MLP, on ImageNet-1k, 300 epochs.
# Published: top-1 83.13.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(clustering='mlp'))
