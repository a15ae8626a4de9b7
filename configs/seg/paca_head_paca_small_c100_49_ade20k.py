# PaCa head, PaCa-ViT small from 100 to 49 ImageNet clusters, 160k iterations on ADE20K.
# Published: mIoU 47.6.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_49.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[200, 200, 200, 200],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
