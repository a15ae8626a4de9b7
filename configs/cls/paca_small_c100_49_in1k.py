# PaCa-ViT small, clusters falling from 100 to 49, on ImageNet-1k, 300 epochs.
# Published: top-1 82.87.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[100, 81, 64, 49]))
