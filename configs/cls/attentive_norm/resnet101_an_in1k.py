# ResNet-101 with Attentive Normalization on ImageNet-1k, 120 epochs.
# Published: top-1 error 20.61.
_base_ = './resnet50_an_in1k.py'

model = dict(backbone=dict(module=dict(depth=101)))
