# A small PaCa-ViT classifier on the embedded dataset: a whole training in minutes on two CPU cores,
# without any download.
#   python tools/train.py configs/cls/paca_shapes.py
_base_ = [
    './_base_/models/paca.py',
    './_base_/datasets/shapes.py',
    './_base_/schedules/schedule_shapes.py',
    './_base_/runtime.py',
]

num_classes = 6

model = dict(
    data_preprocessor=dict(num_classes=num_classes, to_onehot=False),
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
    head=dict(num_classes=num_classes, in_channels=128, cal_acc=True),
    train_cfg=None,  # no mixing
)

train_cfg = dict(max_epochs=40)

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=2),
)
randomness = dict(seed=0)  # the same figures again on the same machine
