# Mask R-CNN, RapidNet-M, 1x schedule on COCO at one scale. Its AP is not in our sources.
# The official file has 1 image a GPU; 8 GPUs:
#   bash tools/dist_train.sh configs/det/rapidnet/mask_rcnn_rapidnet_m.py 8
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/runtime.py',
]

# The ImageNet weights that training starts from: fetch them from
# https://huggingface.co/SLDGroup/RapidNet into this file.
pretrained = 'data/weights/rapidnet_m.pth'

model = dict(
    backbone=dict(
        type='paca_mm.RapidNet',
        arch='m',
        drop_path_rate=0.1,
        norm_cfg=dict(type='SyncBN'),  # plain BN where a run is not distributed; none is frozen
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[32, 64, 160, 320]),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=8)
