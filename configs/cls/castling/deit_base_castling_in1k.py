# DeiT-B with Castling's attention on ImageNet-1k, 300 epochs.
# Quoted by a third party (QT-ViT, NeurIPS 2024, table 1): top-1 84.2.
_base_ = './deit_tiny_castling_in1k.py'

model = dict(
    backbone=dict(vit=dict(arch='deit-base', drop_path_rate=0.1)),
    head=dict(in_channels=768),
)

# As mmpretrain's DeiT-B: what is evaluated and saved is the mean of the weights.
custom_hooks = [
    dict(type='paca_mm.CastlingHook', by='threshold', schedule='cosine', begin=0.0, end=0.8),
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
]
