# A small ResNet classifier with Attentive Normalization on the embedded dataset: a complete training on
# a CPU, without any download.
#   python tools/train.py configs/cls/attentive_norm/resnet_an_shapes.py
_base_ = [
    '../_base_/models/classifier.py',
    '../../_base_/toys/attentive_norm.py',
    '../_base_/shapes.py',
]

model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone, module=dict(_base_.toy_backbone.module, out_indices=(3,))),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.toy_channels[-1], cal_acc=True),
    train_cfg=None,  # no mixing
)
