# MobileNetV2 with Attentive Normalization on ImageNet-1k, 150 epochs.
# Published: top-1 error 26.67. 8 GPUs with 128 images each:
#   bash tools/dist_train.sh configs/cls/attentive_norm/mobilenet_v2_an_in1k.py 8
_base_ = './resnet50_an_in1k.py'

few = dict(type='paca_mm.AttnBN', num_mixtures=5)
many = dict(type='paca_mm.AttnBN', num_mixtures=10)
model = dict(
    # The norms behind the depthwise convolutions: the first of the first block, which does not
    # expand, the second of all others.
    backbone=dict(
        _delete_=True,
        type='paca_mm.ReplaceNorms',
        module=dict(type='MobileNetV2'),
        norms={
            r'layer1\.0\.conv\.0\.bn': few,
            r'layer[234]\.\d+\.conv\.1\.bn': few,
            r'layer[567]\.\d+\.conv\.1\.bn': many,
        },
    ),
    head=dict(in_channels=1280),
)

train_cfg = dict(max_epochs=150)
optim_wrapper = dict(optimizer=dict(lr=0.2, weight_decay=4e-5))  # 0.05 for 256 images
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=5,
        end=150,
        T_max=145,
        convert_to_iter_based=True,
    ),
]
