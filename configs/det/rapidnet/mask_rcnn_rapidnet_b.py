# Mask R-CNN, RapidNet-B, 1x schedule on COCO at one scale. Its AP is not in our sources.
_base_ = './mask_rcnn_rapidnet_m.py'

pretrained = 'data/weights/rapidnet_b.pth'

model = dict(
    backbone=dict(
        arch='b',
        init_cfg=dict(checkpoint=pretrained),
    ),
    neck=dict(in_channels=[64, 128, 224, 416]),
)
