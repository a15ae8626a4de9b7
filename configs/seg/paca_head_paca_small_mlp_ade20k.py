# PaCa head, PaCa-ViT small, clusters by an MLP, 160k iterations on ADE20K.
# Published: mIoU 48.2.
_base_ = './paca_head_paca_small_ade20k.py'

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
