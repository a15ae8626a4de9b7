"""A model of each task that trains a step in seconds, on the embedded dataset, as texts of configs."""

from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.paths import assets_root

BACKBONE = """dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch=dict(embed_dims=(8,) * 4, num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4),
        num_clusters=(3, 3, 3, 0),
        {more}
    )"""

MODELS = {
    'det': """model = dict(
    backbone={backbone},
    neck=dict(in_channels=[8] * 4, out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8, conv_out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=10)),
)
train_cfg = dict(max_epochs=1, val_interval=1)
""",
    'seg': """model = dict(
    backbone={backbone},
    decode_head=dict(in_channels=[8] * 4, channels=8),
)
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
""",
    'cls': """model = dict(
    backbone={backbone},
    head=dict(in_channels=8),
)
train_cfg = dict(max_epochs=1, val_interval=1)
""",
}

LOADERS = """train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
"""


def write_config(file, task, more='', rest=''):
    """Write the tiny config of a task; ``more`` goes to the backbone, ``rest`` to the end."""
    base = assets_root() / TASKS[task].shapes_config
    last = 'out_indices=(3,),' if task == 'cls' else ''
    backbone = BACKBONE.format(more=f'{last} {more}')
    model = MODELS[task].replace('{backbone}', backbone)
    file.write_text(f'_base_ = {str(base)!r}\n{model}{LOADERS}{rest}\n')
    return file


def write_shapes(folder):
    """The embedded dataset where configs look for it from ``folder``: four images and two."""
    ensure_shapes(folder / 'data/shapes', num_train=4, num_val=2)


def tiny(task, file):
    """The config, loaded."""
    return load_config(str(write_config(file, task)))
