# Mask R-CNN, PaCa-ViT small, clusters by an MLP, 1x schedule on COCO.
# Published: box AP 46.6, mask AP 41.9.
_base_ = './mask_rcnn_paca.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cmlp_100_0.pth'
)

model = dict(
    backbone=dict(
        clustering='mlp',
        init_cfg=dict(checkpoint=pretrained),
    ),
)
