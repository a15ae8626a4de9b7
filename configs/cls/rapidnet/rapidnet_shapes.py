# A small RapidNet classifier on the embedded dataset: a complete training in minutes on two CPU cores,
# without any download.
#   python tools/train.py configs/cls/rapidnet/rapidnet_shapes.py
_base_ = [
    '../_base_/models/classifier.py',
    '../../_base_/toys/rapidnet.py',
    '../_base_/shapes.py',
]

model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone, out_indices=(3,)),
    head=dict(
        _delete_=True,
        type='paca_mm.RapidNetClsHead',
        num_classes=_base_.num_classes,
        in_channels=_base_.toy_channels[-1],
        hidden_channels=256,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=True,
    ),
    train_cfg=None,  # no mixing
)

train_cfg = dict(max_epochs=20)
