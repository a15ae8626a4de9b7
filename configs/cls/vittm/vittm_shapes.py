# A small ViTTM classifier on the embedded dataset: a complete training on a CPU,
# without any download.
#   python tools/train.py configs/cls/vittm/vittm_shapes.py
_base_ = [
    './_base_/classifier.py',
    '../../_base_/toys/vittm.py',
    '../_base_/shapes.py',
]

model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone),
    head=dict(
        num_classes=_base_.num_classes,
        in_channels=_base_.toy_channels,
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=True,
    ),
    train_cfg=None,  # no mixing
)

train_cfg = dict(max_epochs=40)
val_evaluator = [
    dict(type='Accuracy', topk=(1,)),
    dict(type='paca_mm.ViTTMAccuracy', stream='process', topk=(1,)),
]
test_evaluator = val_evaluator
