# PaCa head, PaCa-ViT small (convolutional clustering), 160k iterations on ADE20K.
# Published: mIoU 48.3. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/seg/paca_head_paca_small_ade20k.py 8
_base_ = [
    './_base_/models/paca_head.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/schedule_160k.py',
    './_base_/runtime.py',
]

# The ImageNet weights that training starts from; a local file does as well.
pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

model = dict(
    backbone=dict(
        type='paca_mm.PaCaViT',
        arch='small',
        num_clusters=[200, 200, 200, 0],
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 320, 384]),
)

# What starts again learns ten times as fast: the head, and the last layer of every clustering network,
# whose 100 clusters become 200. mmengine takes the first key that a parameter's name contains, the
# longest first; the four long ones are the head's norms, which do not decay. The README of this
# folder says how this differs from the official recipe, and how to get that one.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'to_clusters': dict(lr_mult=10.0),
            'bn.weight': dict(lr_mult=10.0, decay_mult=0.0),
            'bn.bias': dict(lr_mult=10.0, decay_mult=0.0),
            'head.k.2': dict(lr_mult=10.0, decay_mult=0.0),
            'head.v.2': dict(lr_mult=10.0, decay_mult=0.0),
            'head': dict(lr_mult=10.0),
        },
    ),
)
