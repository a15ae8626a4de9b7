# PaCa-ViT small, 100 clusters made again in every block, on ImageNet-1k, 300 epochs.
# Published: top-1 82.93.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[100, 100, 100, 100], cluster_every=1))
