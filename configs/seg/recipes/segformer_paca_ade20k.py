# SegFormer's head on PaCa-ViT small, 160k iterations on ADE20K, 8 GPUs with 2 images each.
# Not trained to the end by us: no result is claimed.
_base_ = [
    '../_base_/models/segmentor.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/runtime.py',
]

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        type='paca_mm.PaCaViT',
        arch='small',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[96, 192, 320, 384],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)

# As SegFormer's own recipe: the head learns ten times as fast. A key of `custom_keys` wins over
# `norm_decay_mult`, the longest that a name contains: so the head's norms have keys of their own.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'head': dict(lr_mult=10.0),
            'bn.weight': dict(lr_mult=10.0, decay_mult=0.0),
            'bn.bias': dict(lr_mult=10.0, decay_mult=0.0),
        },
    ),
)
