# PaCa head, PaCa-ViT small from 49 to 100 ImageNet clusters, 160k iterations on ADE20K.
# Published: mIoU 48.1.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_49_100.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[200, 200, 200, 200],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
