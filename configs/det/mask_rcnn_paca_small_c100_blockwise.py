# Mask R-CNN, PaCa-ViT small, 100 clusters made again in every block, 1x schedule on COCO.
# Published: box AP 46.5, mask AP 41.8.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_blockwise.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[100, 100, 100, 100],
        cluster_every=1,
        init_cfg=dict(checkpoint=pretrained),
    ),
)
