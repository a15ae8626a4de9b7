# Mask2Former (instances), PaCa-ViT small, on mmdetection's own config. It has no neck: its head reads
# the four stages.
# Not trained to the end by us: no result is claimed. The optimizer is the host's: AdamW, a tenth of the
# rate for the backbone.
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch='small',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    panoptic_head=dict(in_channels=[96, 192, 320, 384]),
)

# The host's decay of 0.05 is not meant for norms, but its key `backbone` wins over norm_decay_mult=0. Of
# the keys that a name contains the longest wins, so these are longer.
norms = ['patch_embed.norm', 'cluster_norm']
norms += [f'transition{i}.norm' for i in (1, 2, 3)]
norms += [f'norm{i}.{kind}' for i in (1, 2, 3, 4) for kind in ('weight', 'bias')]
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={key: dict(lr_mult=0.1, decay_mult=0.0) for key in norms}),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
