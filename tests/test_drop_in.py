"""A stock mmdetection config, whose backbone is replaced by ours, under mmdetection's own script."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import mmdet

from paca_mm.datasets.shapes import ensure_shapes

MIM = Path(mmdet.__file__).parent / '.mim'

MINE = """
_base_ = './configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
arch = dict(embed_dims=(8, 16, 16, 16), num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(2,) * 4)
model = dict(
    backbone=dict(_delete_=True, type='paca_mm.PaCaViT', arch=arch),
    neck=dict(in_channels=[8, 16, 16, 16]),
)
"""


@pytest.mark.slow
def test_mmdets_own_script_trains_a_stock_config_with_our_backbone(tmp_path):
    if not (MIM / 'configs').is_dir():
        pytest.skip('this mmdet was installed without its configs (.mim)')
    shutil.copytree(MIM / 'configs/_base_', tmp_path / 'configs/_base_')
    (tmp_path / 'configs/mask_rcnn').mkdir()
    name = 'mask-rcnn_r50_fpn_1x_coco.py'
    shutil.copy(MIM / 'configs/mask_rcnn' / name, tmp_path / 'configs/mask_rcnn' / name)
    (tmp_path / 'mine.py').write_text(MINE)
    make_coco(tmp_path)
    small = 'train_dataloader.dataset.pipeline.2.scale=(96,96)'
    done = subprocess.run(
        [sys.executable, MIM / 'tools/train.py', 'mine.py', '--cfg-options', small,
         'test_dataloader.dataset.pipeline.1.scale=(96,96)',
         'val_dataloader.dataset.pipeline.1.scale=(96,96)', 'train_cfg.max_epochs=1',
         'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
         'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False',
         'default_hooks.logger.interval=1'],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'work_dirs/mine/epoch_1.pth').is_file()
    log = done.stdout + done.stderr
    assert 'Epoch(train)' in log
    assert 'Epoch(val)' in log


def make_coco(folder):
    """The embedded dataset in COCO's places, under the names of six of COCO's classes."""
    shapes = ensure_shapes(folder / 'shapes', num_train=4, num_val=2)
    coco = folder / 'data/coco'
    (coco / 'annotations').mkdir(parents=True)
    names = ('person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus')
    for split in ('train', 'val'):
        (coco / f'{split}2017').symlink_to(shapes / split)
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        for category, name in zip(content['categories'], names, strict=True):
            category['name'] = name
        (coco / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
