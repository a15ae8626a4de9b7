# Mask R-CNN, ResNet-101 with Attentive Normalization, which the box head has too; 2x on COCO.
# Published: box AP 43.2, mask AP 38.8.
_base_ = './mask_rcnn_r50_an_head.py'

pretrained = 'work_dirs/resnet101_an_in1k/epoch_120.pth'

model = dict(backbone=dict(module=dict(depth=101, init_cfg=dict(checkpoint=pretrained))))
