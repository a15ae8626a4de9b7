# PaCa head, PaCa-ViT tiny, clusters by a teacher CNN, 160k iterations on ADE20K.
# No published result, and no published ImageNet weights: training starts from scratch.
_base_ = './paca_head_paca_small_ade20k.py'

model = dict(
    backbone=dict(
        arch='tiny_teacher',
        num_clusters=[200, 200, 200, 200],
        init_cfg=None,
    ),
)
