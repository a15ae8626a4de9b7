# Mask R-CNN, PaCa-ViT small, 2 clusters, 1x schedule on COCO.
# Published: box AP 45.5, mask AP 41.1.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_2_0.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[2, 2, 2, 0],
        init_cfg=dict(checkpoint=pretrained),
    ),
)
