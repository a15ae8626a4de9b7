# Semantic FPN, RapidNet-M, 40k iterations on ADE20K. Its mIoU is not in our sources.
# 8 GPUs with 4 images each:
#   bash tools/dist_train.sh configs/seg/rapidnet/fpn_rapidnet_m_ade20k.py 8
_base_ = [
    '../_base_/models/fpn.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_40k.py',
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
        norm_cfg=_base_.norm_cfg,  # none is frozen
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[32, 64, 160, 320]),
)

train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=4000))
