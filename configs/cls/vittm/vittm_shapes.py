# A small ViTTM classifier on the embedded dataset: a complete training on a CPU,
# without any download.
#   python tools/train.py configs/cls/vittm/vittm_shapes.py
_base_ = [
    './_base_/classifier.py',
    '../../_base_/toys/vittm.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/schedule_shapes.py',
    '../_base_/runtime.py',
]

num_classes = 6

model = dict(
    data_preprocessor=dict(num_classes=num_classes, to_onehot=False),
    backbone=dict(_base_.toy_backbone),
    head=dict(
        num_classes=num_classes,
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

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=2),
)
randomness = dict(seed=0)  # the same figures again on the same machine
