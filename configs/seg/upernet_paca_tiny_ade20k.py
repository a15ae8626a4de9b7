# UPerNet, PaCa-ViT tiny, 160k iterations on ADE20K.
# Published: mIoU 44.49.
_base_ = './upernet_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_tiny_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        arch='tiny',
        init_cfg=dict(checkpoint=pretrained),
    ),
)
