# UPerNet, PaCa-ViT base, 160k iterations on ADE20K.
# Published: mIoU 49.67.
_base_ = './upernet_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_base_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
