"""Train, kill, resume, test: nothing that was saved is lost, and nothing that was loaded changes."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config

from helpers.tool import run

pytest.importorskip('mmdet')

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import find_latest_checkpoint
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.paths import assets_root

SHAPES = 'configs/det/mask_rcnn_paca_shapes.py'

#: A detector that trains in seconds.
TINY = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        arch=dict(embed_dims=(8, 8, 8, 8), num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4),
        num_clusters=(3, 3, 3, 0),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[8, 8, 8, 8], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        bbox_head=dict(_delete_=True, type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=8,
                       num_classes=6, roi_feat_size=7,
                       bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2])),
        mask_head=dict(in_channels=8, conv_out_channels=8),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20)),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2), logger=dict(interval=1))
randomness = dict(seed=3)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the dataset where configs look for it, and a tiny config."""
    folder = tmp_path_factory.mktemp('run')
    ensure_shapes(folder / 'data/shapes', num_train=6, num_val=2)
    (folder / 'tiny.py').write_text(TINY.format(base=str(assets_root() / SHAPES)))
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope='module')
def straight(folder):
    """A run of three epochs without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run('train', 'tiny.py', '--work-dir', 'straight') == 0
    return folder / 'straight'


def weights(file):
    return read_checkpoint(file)['state_dict']


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_straight_one_does(straight, folder, capfd):
    assert (
        run('train', 'tiny.py', '--work-dir', 'cut', '--cfg-options', 'train_cfg.max_epochs=2') == 0
    )
    assert run('train', 'tiny.py', '--work-dir', 'cut', '--resume') == 0
    out = capfd.readouterr().out
    assert 'going on from ' in out
    assert 'cut/epoch_2.pth\n' in out
    resumed, expected = weights('cut/epoch_3.pth'), weights(straight / 'epoch_3.pth')
    for key, value in expected.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.slow
def test_a_kill_leaves_a_complete_checkpoint_and_the_next_run_goes_on(straight, folder):
    command = [sys.executable, assets_root() / 'tools/train.py', 'tiny.py', '--work-dir', 'killed']
    process = subprocess.Popen(
        [*command, '--cfg-options', 'train_cfg.max_epochs=2000'],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(2500):  # a loaded machine takes minutes
        if (folder / 'killed/epoch_2.pth').exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = find_latest_checkpoint('killed')
    epoch = read_checkpoint(newest)['meta']['epoch']
    assert epoch >= 2
    assert run('train', 'tiny.py', '--work-dir', 'killed', '--resume', '--cfg-options',
               f'train_cfg.max_epochs={epoch + 1}') == 0  # fmt: skip
    assert read_checkpoint(f'killed/epoch_{epoch + 1}.pth')['meta']['epoch'] == epoch + 1


@pytest.mark.slow
def test_a_torn_last_checkpoint_is_passed_over(straight, folder):
    import shutil

    shutil.copytree(straight, 'torn')
    last = folder / 'torn/epoch_3.pth'
    (folder / 'torn/last_checkpoint').write_text(str(last))
    last.write_bytes(last.read_bytes()[:5000])
    assert find_latest_checkpoint('torn').name == 'epoch_2.pth'
    (folder / 'torn/last_checkpoint').write_text('')
    assert find_latest_checkpoint('torn').name == 'epoch_2.pth'


@pytest.mark.slow
def test_old_checkpoints_go_only_after_the_new_one_stands(straight, folder, monkeypatch):
    kept = sorted(p.name for p in straight.glob('*.pth'))
    assert kept == ['epoch_2.pth', 'epoch_3.pth']
    from mmengine.runner import runner as mmengine_runner

    seen = []
    save = mmengine_runner.save_checkpoint

    def spy(checkpoint, filename, **kwargs):
        seen.append(sorted(p.name for p in (folder / 'order').glob('*.pth')))
        save(checkpoint, filename, **kwargs)

    monkeypatch.setattr(mmengine_runner, 'save_checkpoint', spy)
    assert run('train', 'tiny.py', '--work-dir', 'order') == 0
    # Both are still there while the third is written, for the first time and behind its validation.
    assert seen[2] == ['epoch_1.pth', 'epoch_2.pth']
    assert seen[3:] == [['epoch_2.pth', 'epoch_3.pth']]


@pytest.mark.slow
def test_the_test_repeats_the_metrics_of_the_training(straight, folder, capfd):
    import json

    scalars = next(straight.glob('*/vis_data/scalars.json')).read_text().splitlines()
    trained = json.loads(scalars[-1])
    assert run('test', 'tiny.py', straight / 'epoch_3.pth', '--work-dir', 'tested', '--out', 'p.pkl',
               '--show-dir', 'shown') == 0  # fmt: skip
    tested = json.loads(next((folder / 'tested').glob('*/*.json')).read_text())
    keys = [key for key in tested if key.startswith('coco/')]
    assert keys
    assert all(tested[key] == trained[key] for key in keys)
    out = capfd.readouterr().out
    assert 'done in' in out
    assert 'predictions: p.pkl' in out
    assert (folder / 'p.pkl').stat().st_size > 0
    assert (
        len(
            list((folder / 'tested').rglob('shown/*.png'))
            or list((folder / 'shown').rglob('*.png'))
        )
        == 2
    )


@pytest.mark.slow
def test_pretrained_weights_survive_the_runners_initialisation(folder):
    """The official code re-initialises them: this is the test that it would fail."""
    from paca_mm.models import PaCaViT

    torch.manual_seed(5)
    cfg = Config.fromfile('tiny.py')
    arch = cfg.model.backbone.arch
    donor = PaCaViT(arch=arch, num_clusters=(3, 3, 3, 0))
    torch.save(donor.state_dict(), 'donor.pth')
    assert run('train', 'tiny.py', '--work-dir', 'tuned', '--cfg-options',
               'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=donor.pth',
               'optim_wrapper.optimizer.lr=0.0', 'train_cfg.max_epochs=1') == 0  # fmt: skip
    state = weights('tuned/epoch_1.pth')
    for key, value in donor.state_dict().items():
        assert torch.equal(state[f'backbone.{key}'], value), key


def test_stock_mmengine_reads_our_checkpoints_and_we_read_its(straight):
    file = straight / 'epoch_3.pth'
    ours = read_checkpoint(file)
    theirs = torch.load(file, map_location='cpu', weights_only=False)
    assert ours.keys() == theirs.keys()
    history, expected = (c['message_hub']['log_scalars']['train/loss'] for c in (ours, theirs))
    assert history.current() == expected.current()


@pytest.mark.slow
def test_infer_draws_and_writes_json(straight, folder):
    import json

    assert run('infer', 'data/shapes/val', 'tiny.py', straight / 'epoch_3.pth', '--out', 'inferred',
               '--score-thr', '0') == 0  # fmt: skip
    records = json.loads((folder / 'inferred/predictions.json').read_text())
    assert [r['picture'] for r in records] == [
        'data/shapes/val/000001.png',
        'data/shapes/val/000002.png',
    ]
    for record in records:
        assert (folder / record['drawn']).stat().st_size > 0
        for found in record['instances']:
            assert found['class'] in ('crescent', 'cross', 'disc', 'square', 'star', 'triangle')
            assert len(found['bbox']) == 4
            assert found['mask']['size'] == [128, 128]


def test_log_is_not_flooded_by_the_parameters(straight):
    log = next(straight.glob('*/*.log')).read_text()
    assert 'Epoch(train)' in log
    assert 'paramwise_options' not in log
