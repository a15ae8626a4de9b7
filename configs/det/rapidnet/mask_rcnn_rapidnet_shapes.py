# Mask R-CNN with a small RapidNet on the embedded dataset: a complete training in minutes on two CPU
# cores, without any download.
#   python tools/train.py configs/det/rapidnet/mask_rcnn_rapidnet_shapes.py
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../../_base_/toys/rapidnet.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/schedule_shapes.py',
    '../_base_/runtime.py',
]

num_classes = 6
norm_cfg = dict(type='BN')  # from scratch, the head learns much faster with norms

model = dict(
    backbone=_base_.toy_backbone,
    neck=dict(in_channels=_base_.toy_channels, out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=num_classes,
        ),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(
            in_channels=64, conv_out_channels=64, norm_cfg=norm_cfg, num_classes=num_classes
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=3, max_keep_ckpts=2),
    visualization=dict(score_thr=0.5),
)
