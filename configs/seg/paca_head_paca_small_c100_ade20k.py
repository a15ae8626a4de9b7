# PaCa head, PaCa-ViT small, clusters in every stage, 160k iterations on ADE20K.
# Published: mIoU 48.3.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[200, 200, 200, 200],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
