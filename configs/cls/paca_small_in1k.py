# PaCa-ViT small (convolutional clustering) on ImageNet-1k, 300 epochs.
# Published: top-1 83.08. 8 GPUs with 128 images each:
#   bash tools/dist_train.sh configs/cls/paca_small_in1k.py 8
_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet_bs128.py',
    './_base_/schedules/schedule_300e.py',
    './_base_/runtime.py',
]

model = dict(
    backbone=dict(type='paca_mm.PaCaViT', arch='small', out_indices=(3,), drop_path_rate=0.1),
    head=dict(in_channels=384),
)
