# PaCa head, PaCa-ViT small, clusters by a teacher CNN, 160k iterations on ADE20K.
# Published: mIoU 46.2.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_convmixer_small_100.pth'
)

model = dict(
    backbone=dict(
        arch='small_teacher',
        num_clusters=[200, 200, 200, 200],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
