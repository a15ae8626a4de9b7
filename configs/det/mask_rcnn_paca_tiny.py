# Mask R-CNN, PaCa-ViT tiny, 1x schedule on COCO.
# Published: box AP 43.3, mask AP 39.6.
_base_ = './mask_rcnn_paca.py'

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
