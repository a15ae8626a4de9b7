# A linear classifier, PaCa-ViT small, on mmpretrain's own config of Swin-T: its optimizer and decay (no
# norm, no bias) fit as they are.
# Not trained to the end by us: no result is claimed. ../paca_small_in1k.py is the published recipe.
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch='small',
        out_indices=(3,),
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=384),
)

# Checkpoints that a kill cannot tear, and exact resuming; the host's own Runner works as well.
runner_type = 'paca_mm.SafeRunner'
default_hooks = dict(
    checkpoint=dict(type='paca_mm.SafeCheckpointHook'),
    finite=dict(type='paca_mm.FiniteHook'),
)
