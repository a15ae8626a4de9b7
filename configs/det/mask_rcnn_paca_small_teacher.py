# Mask R-CNN, PaCa-ViT small, clusters by a teacher CNN, 1x schedule on COCO.
# Published: box AP 45.8, mask AP 41.4.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_convmixer_small_100.pth'
)

model = dict(
    backbone=dict(
        arch='small_teacher',
        init_cfg=dict(checkpoint=pretrained),
    ),
)
