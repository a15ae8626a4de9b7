# RapidNet-Ti on ImageNet-1k, 300 epochs and 10 at the lowest rate, taught by RegNetY-16GF.
# Published: top-1 76.3. 8 GPUs with 128 images each:
#   bash tools/dist_train.sh configs/cls/rapidnet/rapidnet_ti_in1k.py 8
# The teacher is fetched by timm when training starts. Without one the second head learns the labels:
#   --cfg-options model.teacher=None
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/schedule_300e.py',
    '../_base_/runtime.py',
]

norm_cfg = dict(type='SyncBN')  # plain BN where a run is not distributed

model = dict(
    type='paca_mm.DistilledClassifier',
    backbone=dict(
        type='paca_mm.RapidNet',
        arch='ti',
        out_indices=(3,),
        drop_path_rate=0.1,
        norm_cfg=norm_cfg,
    ),
    head=dict(
        _delete_=True,
        type='paca_mm.RapidNetClsHead',
        num_classes=1000,
        in_channels=224,
        hidden_channels=512,
        alpha=0.5,  # the teacher's share of the loss
        norm_cfg=norm_cfg,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    teacher=dict(type='TimmClassifier', model_name='regnety_160.deit_in1k', pretrained=True),
)

# Three copies of an image are in the batches of a step, each augmented by itself.
train_dataloader = dict(sampler=dict(type='RepeatAugSampler', num_repeats=3, shuffle=True))

train_cfg = dict(max_epochs=310)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
# Once an epoch, as timm's; see schedule_300e.py. The last 10 epochs stay at 1e-5.
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, by_epoch=True, begin=0, end=21),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=300),
]
# What is evaluated and saved is the mean of the weights.
custom_hooks = [
    dict(type='EMAHook', momentum=4e-5, update_buffers=True, priority='ABOVE_NORMAL'),
]
