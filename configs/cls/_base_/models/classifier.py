# An image classifier: the mean over the positions of the backbone's last map, one linear layer. A config
# that uses it brings the backbone, of one output, and the head's in_channels, which are the backbone's.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,  # images are loaded as BGR
        to_onehot=True,  # mixing takes labels as vectors
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=False,  # mixed labels have no accuracy
    ),
    # Every batch is mixed, by one or the other with equal chance.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ],
    ),
)
