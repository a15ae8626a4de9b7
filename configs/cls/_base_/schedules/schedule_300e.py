# 300 epochs, the learning rate for 8 GPUs with 128 images each.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AmpOptimWrapper',  # tools/train.py trains in float32 where there is no GPU
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # Nothing that is a vector decays: norms and biases.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
# Once an epoch, as timm's: the cosine runs from the first epoch on, and the warm-up, a line from
# 1e-6, goes on top of it. The five epochs of a warm-up are five steps, so it ends with the sixth.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=300),
]
auto_scale_lr = dict(enable=False, base_batch_size=1024)
