# A small ViT with Castling's attention on the embedded dataset: a complete training on a CPU, without
# any download. The softmax branch is gone after 15 of 25 epochs.
#   python tools/train.py configs/cls/castling/deit_castling_shapes.py
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/shapes.py',
]

model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, to_onehot=False),
    backbone=dict(
        type='paca_mm.CastlingViT',
        vit=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192),
            img_size=64,
            patch_size=8,
        ),
    ),
    neck=None,  # the class token is classified
    head=dict(
        _delete_=True,
        type='VisionTransformerClsHead',
        num_classes=_base_.num_classes,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    train_cfg=None,  # no mixing
)

custom_hooks = [
    dict(type='paca_mm.CastlingHook', by='threshold', schedule='cosine', begin=0.0, end=0.6),
]
