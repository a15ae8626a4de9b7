# ViTTM-S, 64 memory and 64 process tokens, fine-tuned on ImageNet-1k for 300 epochs after ImageNet-21k.
# Its accuracy is not in our sources. 8 GPUs with 512 images each:
#   bash tools/dist_train.sh configs/cls/vittm/vittm_small_28_28_in1k.py 8
_base_ = [
    './_base_/classifier.py',
    './_base_/imagenet_bs256.py',
    './_base_/schedule_300e.py',
    '../_base_/runtime.py',
]

# The ImageNet-21k weights that training starts from; README.md says where they come from.
pretrained = 'data/weights/vittm_small_28_28_in21k.pth'

model = dict(
    backbone=dict(
        arch='small',
        memory_patch=28,
        process_patch=28,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=384),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.5),
            dict(type='CutMix', alpha=1.0),
        ],
    ),
)

train_dataloader = dict(batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=1.75e-4, weight_decay=0.03))
auto_scale_lr = dict(base_batch_size=4096)
