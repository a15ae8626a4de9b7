# What the segmentors share: images as they come in, norms, whole images in testing.
norm_cfg = dict(type='SyncBN', requires_grad=True)  # plain BN where a run is not distributed

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,  # the dataset's pipeline crops and pads to the size to train at
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
