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

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
