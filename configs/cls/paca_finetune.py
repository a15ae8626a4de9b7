# Fine-tune PaCa-ViT on your own images. Change the first lines here, or in a copy for any other folder:
#   paca-mm config paca_finetune --copy > my_pictures.py
#   paca-mm train my_pictures.py
# Expected: data/my_pictures/train/<class>/<image> and data/my_pictures/val/<class>/<image>.
_base_ = './paca_small_in1k.py'

data_root = 'data/my_pictures/'
num_classes = 2  # as many as there are folders in train/
max_epochs = 30

# The ImageNet weights that training starts from; a local file does as well.
pretrained = (
    'https://github.com/iVMCL/PaCaViT/releases/download/pacavit/'
    'IMNET_224_pacavit_small_p2cconv_100_0.pth'
)

model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    head=dict(num_classes=num_classes),
)

train_dataloader = dict(
    batch_size=64,
    drop_last=False,  # every image counts where there are few
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='val',
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-4), clip_grad=dict(max_norm=1.0))  # lr for 64 images
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=2,
        end=max_epochs,
        eta_min=1e-6,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=64)

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(save_best='auto', max_keep_ckpts=1),
)
