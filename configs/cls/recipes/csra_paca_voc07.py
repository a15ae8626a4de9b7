# Several labels an image: the CSRA head on PaCa-ViT small, on mmpretrain's own config for VOC 2007. The
# head reads the map itself, so there is no neck.
# Not trained to the end by us: no result is claimed.
_base_ = 'mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

data_preprocessor = dict(  # the host's is for other weights
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch='small',
        out_indices=(3,),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=384),
)

# The host's SGD is for a ResNet.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'head': dict(lr_mult=10.0)},  # it alone begins at random
    ),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
