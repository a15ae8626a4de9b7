# UPerNet, ViTTM-B with 16-pixel memory and 32-pixel process patches, 160k iterations on ADE20K. Its
# mIoU is not in our sources. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/seg/vittm/upernet_vittm_base_ade20k.py 8
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/runtime.py',
]

# The ImageNet weights that training starts from; README.md says where they come from.
pretrained = 'data/weights/vittm_base_16_32.pth'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type='paca_mm.ViTTM',
        arch='base',
        memory_patch=16,
        process_patch=32,
        out_indices=(3, 5, 7, 11),
        pad_to_patch=True,  # images are tested whole
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    # The four maps of one size as a pyramid: enlarged four times, twice, as it is, halved.
    neck=dict(
        type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg=_base_.norm_cfg
    ),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)

train_pipeline = _base_.train_pipeline
train_pipeline[7].update(pad_val=dict(img=(128, 128, 128), seg=255))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0)}),  # beside the norms
)

# With --shapes: from scratch, a ViT of this size learns nothing at the rate of the small models.
on_shapes = dict(optim_wrapper=dict(optimizer=dict(lr=2e-4)))
