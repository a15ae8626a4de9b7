# Mask R-CNN, PaCa-ViT small (convolutional clustering), 1x schedule on COCO.
# Published: box AP 46.4, mask AP 41.8. 8 GPUs with 2 images each:
#   bash tools/dist_train.sh configs/det/mask_rcnn_paca.py 8
_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/schedule_1x.py',
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
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 320, 384]),
)
