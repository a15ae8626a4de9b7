# 160k iterations of SGD, the learning rate for 8 GPUs with 2 images each, without warm-up.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=5e-4, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=160000),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

# With --shapes: from scratch, a ViT of this size learns nothing at the rate of the small models.
on_shapes = dict(optim_wrapper=dict(optimizer=dict(lr=2e-4)))
