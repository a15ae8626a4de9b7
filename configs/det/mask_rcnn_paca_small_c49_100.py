# Mask R-CNN, PaCa-ViT small, clusters growing from 49 to 100, 1x schedule on COCO.
# Published: box AP 46.1, mask AP 41.5.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_49_100.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[49, 64, 81, 100],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
