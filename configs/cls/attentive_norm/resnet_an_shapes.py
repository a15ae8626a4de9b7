# A small ResNet classifier with Attentive Normalization on the embedded dataset: a complete training on
# a CPU, without any download.
#   python tools/train.py configs/cls/attentive_norm/resnet_an_shapes.py
_base_ = [
    '../_base_/models/classifier.py',
    '../../_base_/toys/attentive_norm.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/schedule_shapes.py',
    '../_base_/runtime.py',
]

num_classes = 6

model = dict(
    data_preprocessor=dict(num_classes=num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone, module=dict(_base_.toy_backbone.module, out_indices=(3,))),
    head=dict(num_classes=num_classes, in_channels=_base_.toy_channels[-1], cal_acc=True),
    train_cfg=None,  # no mixing
)

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=2),
)
randomness = dict(seed=0)  # the same figures again on the same machine
