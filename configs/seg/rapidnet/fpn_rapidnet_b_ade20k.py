# Semantic FPN, RapidNet-B, 40k iterations on ADE20K. Its mIoU is not in our sources.
_base_ = './fpn_rapidnet_m_ade20k.py'

pretrained = 'data/weights/rapidnet_b.pth'

model = dict(
    backbone=dict(
        arch='b',
        init_cfg=dict(checkpoint=pretrained),
    ),
    neck=dict(in_channels=[64, 128, 224, 416]),
)
