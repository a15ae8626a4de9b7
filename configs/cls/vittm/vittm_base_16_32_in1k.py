# ViTTM-B, 196 memory and 49 process tokens, fine-tuned on ImageNet-1k for 300 epochs after ImageNet-21k.
# Its accuracy is not in our sources.
_base_ = './vittm_base_28_28_in1k.py'

pretrained = 'data/weights/vittm_base_16_32_in21k.pth'

model = dict(
    backbone=dict(
        memory_patch=16,
        process_patch=32,
        init_cfg=dict(checkpoint=pretrained),
    ),
)
