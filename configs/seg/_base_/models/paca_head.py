# The PaCa head: clusters are the classes, their scores are supervised like the logits (cluster_loss_ce
# beside loss_ce). No auxiliary head. A config that uses it brings the backbone and the head's
# in_channels, which are the backbone's.
_base_ = './segmentor.py'

model = dict(
    decode_head=dict(
        type='paca_mm.PaCaHead',
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
        cluster_loss_weight=0.4,
    ),
)
