# RTMDet-s with PaCa-ViT tiny, on mmdetection's own config.
# Not trained to the end by us: no result is claimed. The optimizer and its decay (no norm, no bias) are
# the host's.
_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_tiny_p2cconv_100_0.pth'
)

model = dict(
    data_preprocessor=dict(  # the host's is BGR, our weights were trained with RGB
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch='tiny',
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[192, 320, 384]),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
