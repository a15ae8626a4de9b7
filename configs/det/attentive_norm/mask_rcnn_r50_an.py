# Mask R-CNN, ResNet-50 with Attentive Normalization, 2x schedule on COCO.
# Published: box AP 40.8, mask AP 36.4. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/det/attentive_norm/mask_rcnn_r50_an.py 8
_base_ = [
    '../_base_/models/mask_rcnn.py',
    './_base_/coco_plain.py',
    './_base_/schedule_2x.py',
    '../_base_/runtime.py',
]

# The ImageNet classifier that training starts from: what configs/cls/attentive_norm trains, or the
# authors' file (without the prefix).
pretrained = 'work_dirs/resnet50_an_in1k/epoch_120.pth'

model = dict(
    backbone=dict(
        type='paca_mm.ReplaceNorms',
        module=dict(
            type='ResNet',
            depth=50,
            frozen_stages=1,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=True,
            init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
        ),
        norms={
            r'layer[12]\.\d+\.bn2': dict(type='paca_mm.AttnBN', num_mixtures=10),
            r'layer[34]\.\d+\.bn2': dict(type='paca_mm.AttnBN', num_mixtures=20),
        },
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
    roi_head=dict(bbox_head=dict(type='Shared4Conv1FCBBoxHead')),
)
