# The classifier of ViTTM: a head on the memory, which predicts, and one on the process tokens. A config
# that uses it brings the arch and the patches of the backbone and the head's in_channels.
_base_ = '../../_base_/models/classifier.py'

model = dict(
    backbone=dict(
        type='paca_mm.ViTTM',
        out_type='raw',  # both streams, as tokens
        pad_to_patch=True,  # images that the patches do not divide; 224 is divided
    ),
    neck=None,
    head=dict(
        _delete_=True,
        type='paca_mm.ViTTMClsHead',
        num_classes=1000,
        # Binary cross-entropy, summed over the classes and averaged over the images.
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
