# PaCa head, PaCa-ViT base, 160k iterations on ADE20K.
# Published: mIoU 50.39.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_base_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
        init_cfg=dict(checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
)
