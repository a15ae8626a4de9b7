# RapidNet-M on ImageNet-1k. Its accuracy is not in our sources.
_base_ = './rapidnet_ti_in1k.py'

model = dict(backbone=dict(arch='m'), head=dict(in_channels=320))
