# Mask R-CNN, PaCa-ViT base, 1x schedule on COCO.
# Published: box AP 48.0, mask AP 42.9.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_base_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
