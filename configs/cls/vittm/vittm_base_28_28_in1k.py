# ViTTM-B, 64 memory and 64 process tokens, fine-tuned on ImageNet-1k for 300 epochs after ImageNet-21k.
# Published: top-1 82.9. 8 GPUs with 256 images each:
#   bash tools/dist_train.sh configs/cls/vittm/vittm_base_28_28_in1k.py 8
_base_ = [
    './_base_/classifier.py',
    './_base_/imagenet_bs256.py',
    './_base_/schedule_300e.py',
    '../_base_/runtime.py',
]

# The ImageNet-21k weights that training starts from; README.md says where they come from.
pretrained = 'data/weights/vittm_base_28_28_in21k.pth'

model = dict(
    backbone=dict(
        arch='base',
        memory_patch=28,
        process_patch=28,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=768),
)

# RandAugment of three steps at two thirds of the strength.
train_pipeline = _base_.train_pipeline
train_pipeline[3].update(num_policies=3, magnitude_level=20)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
