# PSPNet's head on PaCa-ViT small, 160k iterations on ADE20K, 8 GPUs with 2 images each. It reads the
# last stage, at 1/32 of the image: a dilated ResNet gives it 1/8.
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
        type='PSPHead',
        in_channels=384,
        in_index=3,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=320,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    ),
)
