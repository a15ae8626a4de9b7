# UPerNet, PaCa-ViT small (convolutional clustering), 160k iterations on ADE20K.
# Published: mIoU 47.6. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/seg/upernet_paca_small_ade20k.py 8
_base_ = [
    './_base_/models/upernet.py',
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
    auxiliary_head=dict(in_channels=320),
)
