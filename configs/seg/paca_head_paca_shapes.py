# The PaCa head with a small PaCa-ViT on the embedded dataset: a whole training in minutes on two CPU
# cores, without any download.
#   python tools/train.py configs/seg/paca_head_paca_shapes.py
_base_ = [
    './_base_/models/paca_head.py',
    './_base_/datasets/shapes.py',
    './_base_/schedules/schedule_shapes.py',
    './_base_/runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(32, 64, 128, 128),
            num_heads=(1, 2, 4, 4),
            depths=(1, 1, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
        ),
        num_clusters=(49, 49, 49, 0),
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 128],
        channels=64,
        num_classes=7,  # the background is one
    ),
)

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=2),
)
