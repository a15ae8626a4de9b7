# PaCa head, PaCa-ViT base, clusters by a teacher CNN, 160k iterations on ADE20K.
# Published: mIoU 48.4.
_base_ = './paca_head_paca_small_ade20k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_convmixer_base_100.pth'
)

model = dict(
    backbone=dict(
        arch='base_teacher',
        num_clusters=[200, 200, 200, 200],
        drop_path_rate=0.5,
        init_cfg=dict(checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
)
