# PaCa-ViT small, clusters growing from 49 to 100, on ImageNet-1k, 300 epochs.
# Published: top-1 82.98.
_base_ = './paca_small_in1k.py'

model = dict(backbone=dict(num_clusters=[49, 64, 81, 100]))
