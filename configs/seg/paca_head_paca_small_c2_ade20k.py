# PaCa head, PaCa-ViT small from 2 ImageNet clusters, 160k iterations on ADE20K.
# Published: mIoU 47.7.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_2_0.pth'
)

model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
