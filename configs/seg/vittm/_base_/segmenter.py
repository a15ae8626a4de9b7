# Segmenter: mmsegmentation's own mask transformer, of two layers, on one map of the backbone. A config
# that uses it brings the backbone and the head's in_channels and channels, which are the backbone's.
_base_ = '../../_base_/models/segmentor.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_index=0,
        num_layers=2,
        num_heads=12,
        embed_dims=768,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
