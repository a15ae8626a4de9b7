# A linear probe of PaCa-ViT small, on mmpretrain's own config of ResNet-50: only the head learns, by the
# host's SGD. frozen_stages=4 freezes all of the backbone, stem and norms too.
# Not trained to the end by us: no result is claimed.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'

pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch='small',
        out_indices=(3,),
        frozen_stages=4,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=384),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
