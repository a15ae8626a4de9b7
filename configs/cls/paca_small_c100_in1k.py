# PaCa-ViT small, 100 clusters in every stage, on ImageNet-1k, 300 epochs.
# Published: top-1 83.05.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[100, 100, 100, 100]))
