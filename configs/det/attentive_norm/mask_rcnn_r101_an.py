# Mask R-CNN, ResNet-101 with Attentive Normalization, 2x schedule on COCO.
# Published: box AP 43.1, mask AP 38.2.
_base_ = './mask_rcnn_r50_an.py'

pretrained = 'work_dirs/resnet101_an_in1k/epoch_120.pth'

model = dict(backbone=dict(module=dict(depth=101, init_cfg=dict(checkpoint=pretrained))))
