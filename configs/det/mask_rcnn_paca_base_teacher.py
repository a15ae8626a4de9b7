# Mask R-CNN, PaCa-ViT base, clusters by a teacher CNN, 1x schedule on COCO.
# Published: box AP 48.3, mask AP 43.3.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_convmixer_base_100.pth'
)

model = dict(
    backbone=dict(
        arch='base_teacher',
        init_cfg=dict(checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
