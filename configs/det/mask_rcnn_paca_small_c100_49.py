# Mask R-CNN, PaCa-ViT small, clusters falling from 100 to 49, 1x schedule on COCO.
# Published: box AP 46.1, mask AP 41.7.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_49.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[100, 81, 64, 49],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
