# Mask R-CNN, PaCa-ViT small, 49 clusters, 1x schedule on COCO.
# Published: box AP 46.2, mask AP 41.6.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_49_0.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[49, 49, 49, 0],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
