# Semantic FPN on PaCa-ViT small, 160k iterations on ADE20K, 8 GPUs with 2 images each.
# Not trained to the end by us: no result is claimed.
_base_ = [
    '../_base_/models/fpn.py',
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
    neck=dict(in_channels=[96, 192, 320, 384]),
)
