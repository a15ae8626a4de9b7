# ImageNet-1k at 224 x 224, 256 images a GPU: RandAugment of two steps at half strength, random erasing;
# tested on the centre of images whose short side is 256.
_base_ = '../../_base_/datasets/imagenet_bs128.py'

train_pipeline = _base_.train_pipeline
train_pipeline[3].update(total_level=30, magnitude_level=15)
train_pipeline[3].pop('magnitude_std')
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=256)

train_dataloader = dict(batch_size=256, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=256, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=256, dataset=dict(pipeline=test_pipeline))

# The accuracy of the memory, which predicts, and beside it that of the process tokens.
val_evaluator = [
    dict(type='Accuracy', topk=(1, 5)),
    dict(type='paca_mm.ViTTMAccuracy', stream='process', topk=(1, 5)),
]
test_evaluator = val_evaluator
