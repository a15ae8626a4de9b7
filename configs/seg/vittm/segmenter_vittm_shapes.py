# Segmenter with a small ViTTM on the embedded dataset: a complete training on a CPU,
# without any download.
#   python tools/train.py configs/seg/vittm/segmenter_vittm_shapes.py
_base_ = [
    './_base_/segmenter.py',
    '../../_base_/toys/vittm.py',
    '../_base_/shapes.py',
]

model = dict(
    # Equal patches of 8 pixels, whose maps lie side by side.
    backbone=dict(_base_.toy_backbone, process_patch=8, out_type='both'),
    decode_head=dict(
        in_channels=2 * _base_.toy_channels,
        channels=2 * _base_.toy_channels,
        num_heads=4,
        embed_dims=128,
        num_classes=7,  # the background is one
    ),
)
