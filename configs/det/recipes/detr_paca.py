# DETR, PaCa-ViT small, on mmdetection's own config. It reads the last stage only.
# Not trained to the end by us: no result is claimed. The optimizer is the host's: AdamW, a tenth of the
# rate for the backbone.
_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'

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
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[384]),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
