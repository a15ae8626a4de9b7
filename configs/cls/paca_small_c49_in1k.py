# PaCa-ViT small, 49 clusters, on ImageNet-1k, 300 epochs.
# Published: top-1 82.95.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[49, 49, 49, 0]))
