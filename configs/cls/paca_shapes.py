# A small PaCa-ViT classifier on the embedded dataset: a complete training in minutes on two CPU cores,
# without any download.
#   python tools/train.py configs/cls/paca_shapes.py
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/toys/paca.py',
    './_base_/shapes.py',
]

model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone, out_indices=(3,)),
    head=dict(num_classes=_base_.num_classes, in_channels=_base_.toy_channels[-1], cal_acc=True),
    train_cfg=None,  # no mixing
)

train_cfg = dict(max_epochs=40)
