# DeiT-T with Castling's attention on ImageNet-1k, 300 epochs.
# Quoted by a third party (QT-ViT, NeurIPS 2024, table 1): top-1 76.0. 8 GPUs with 128 images each:
#   bash tools/dist_train.sh configs/cls/castling/deit_tiny_castling_in1k.py 8
# From DeiT's weights instead of from scratch (mmpretrain's file or the official one):
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/schedule_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='paca_mm.CastlingViT',
        vit=dict(type='VisionTransformer', arch='deit-tiny', img_size=224, patch_size=16),
        softmax_branch=True,
        threshold=0.02,
    ),
    neck=None,  # the class token is classified
    head=dict(
        _delete_=True,
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

# The middle 224 of 256, as mmpretrain tests DeiT.
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=256)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# mmpretrain's recipe of DeiT: a line up over 20 epochs, then the cosine, iteration by iteration.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]
# Schedule not published: the softmax branch fades out over the first 80 % of the run and is removed.
custom_hooks = [
    dict(type='paca_mm.CastlingHook', by='threshold', schedule='cosine', begin=0.0, end=0.8),
]
