# PaCa head, PaCa-ViT small, clusters made again in every block, 160k iterations on ADE20K.
# Published: mIoU 48.0.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_blockwise.pth'
)

model = dict(
    backbone=dict(
        num_clusters=[200, 200, 200, 200],
        cluster_every=1,
        init_cfg=dict(checkpoint=pretrained),
    ),
)
