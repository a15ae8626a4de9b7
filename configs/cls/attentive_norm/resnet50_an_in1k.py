# ResNet-50 with Attentive Normalization on ImageNet-1k, 120 epochs.
# Published: top-1 error 21.59. 8 GPUs with 128 images each:
#   bash tools/dist_train.sh configs/cls/attentive_norm/resnet50_an_in1k.py 8
_base_ = [
    '../_base_/models/classifier.py',
    './_base_/imagenet_plain.py',
    './_base_/schedule_120e.py',
    '../_base_/runtime.py',
]

model = dict(
    data_preprocessor=dict(to_onehot=False),
    # The host's ResNet. Of its norms those behind the 3x3 convolutions are exchanged; stem, shortcuts
    # and 1x1 convolutions keep BatchNorm. Its keys stay torchvision's.
    backbone=dict(
        type='paca_mm.ReplaceNorms',
        module=dict(type='ResNet', depth=50, out_indices=(3,), zero_init_residual=True),
        norms={
            r'layer[12]\.\d+\.bn2': dict(type='paca_mm.AttnBN', num_mixtures=10),
            r'layer[34]\.\d+\.bn2': dict(type='paca_mm.AttnBN', num_mixtures=20),
        },
    ),
    head=dict(
        in_channels=2048,
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
        loss=dict(_delete_=True, type='CrossEntropyLoss', loss_weight=1.0),
        cal_acc=True,
    ),
    train_cfg=None,  # nothing is mixed
)
