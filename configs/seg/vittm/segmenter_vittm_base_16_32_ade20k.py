# Segmenter, ViTTM-B with 16-pixel memory and 32-pixel process patches, 480k iterations on ADE20K. Its
# mIoU is not in our sources. 4 images a step:
#   bash tools/dist_train.sh configs/seg/vittm/segmenter_vittm_base_16_32_ade20k.py 2
_base_ = [
    './_base_/segmenter.py',
    '../_base_/datasets/ade20k.py',
    './_base_/schedule_sgd_160k.py',
    '../_base_/runtime.py',
]

# The ImageNet weights that training starts from; README.md says where they come from.
pretrained = 'data/weights/vittm_base_16_32.pth'
crop_size = (512, 512)

model = dict(
    backbone=dict(
        type='paca_mm.ViTTM',
        arch='base',
        memory_patch=16,
        process_patch=32,
        out_indices=(11,),
        pad_to_patch=True,  # an image narrower than a window is a window by itself
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=768, channels=768),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(480, 480)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[7].update(pad_val=dict(img=(128, 128, 128), seg=255))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_iters=480000)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=480000),
]
auto_scale_lr = dict(base_batch_size=4)
