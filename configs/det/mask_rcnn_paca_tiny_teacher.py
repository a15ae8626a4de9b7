# Mask R-CNN, PaCa-ViT tiny, clusters by a teacher CNN, 1x schedule on COCO.
# No published result, and no published ImageNet weights: training starts from scratch.
_base_ = './mask_rcnn_paca.py'

model = dict(
    backbone=dict(
        arch='tiny_teacher',
        init_cfg=None,
    ),
)
