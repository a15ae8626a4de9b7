# Segmenter, ViTTM-B with patches of 28 for both streams, which it reads side by side, 160k iterations on
# ADE20K. Published: mIoU 45.17. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/seg/vittm/segmenter_vittm_base_28_28_ade20k.py 8
_base_ = [
    './_base_/segmenter.py',
    '../_base_/datasets/ade20k.py',
    './_base_/schedule_sgd_160k.py',
    '../_base_/runtime.py',
]

# The ImageNet weights that training starts from; README.md says where they come from.
pretrained = 'data/weights/vittm_base_28_28.pth'
crop_size = (504, 504)  # 18 patches of 28

model = dict(
    data_preprocessor=dict(size_divisor=28),
    backbone=dict(
        type='paca_mm.ViTTM',
        arch='base',
        memory_patch=28,
        process_patch=28,
        out_indices=(11,),
        out_type='both',
        pad_to_patch=True,  # an image narrower than a window is a window by itself
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=1536, channels=1536),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(480, 480)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[4].update(crop_size=crop_size)
train_pipeline[7].update(size=crop_size, pad_val=dict(img=(128, 128, 128), seg=255))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# What is evaluated and saved is the plain mean of the weights of the last quarter.
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='StochasticWeightAverage',
        begin_iter=120000,
        interval=500,
        priority='ABOVE_NORMAL',
    ),
]
