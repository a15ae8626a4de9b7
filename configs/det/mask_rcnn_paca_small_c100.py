# Mask R-CNN, PaCa-ViT small, 100 clusters in every stage, 1x schedule on COCO.
# Published: box AP 46.4, mask AP 41.8.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[100, 100, 100, 100],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
