# PaCa-ViT small, 2 clusters, on ImageNet-1k, 300 epochs.
# Published: top-1 82.28.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[2, 2, 2, 0]))
