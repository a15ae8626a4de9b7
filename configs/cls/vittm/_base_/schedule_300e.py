# Fine-tuning on ImageNet-1k for 300 epochs, after ImageNet-21k: a line up over 3000 steps, then a
# cosine; bf16; what is evaluated and saved is the mean of the weights.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AmpOptimWrapper',  # tools/train.py trains in float32 where there is no GPU
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=2.5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    # Nothing that is a vector decays, nor does a position.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=3000),
    dict(
        type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=300,
        convert_to_iter_based=True,
    ),
]  # fmt: skip
custom_hooks = [dict(type='EMAHook', momentum=1e-3, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(enable=False, base_batch_size=2048)
