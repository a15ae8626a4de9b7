"""Pure-Python configs: types that are classes pass every check and every tool."""

import json
from pathlib import Path

import pytest
import torch

from helpers import tiny
from helpers.configs import build
from helpers.lazy import as_lazy
from helpers.tool import run
from paca_mm.engine.config import is_lazy, load_config
from paca_mm.engine.distributed import prepare_cpu
from paca_mm.engine.tasks import task_for
from paca_mm.engine.walk import leave_weights_out, scope_name, type_name, walk, weights_of
from paca_mm.errors import UserError
from paca_mm.families import family_of

HOSTS = {'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}
every_task = pytest.mark.parametrize('task', list(HOSTS))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lazy')
    tiny.write_shapes(folder)
    return folder


@pytest.fixture
def config(task, folder, monkeypatch):
    """A pure-Python config of the task, with weights to begin with and mixed precision."""
    pytest.importorskip(HOSTS[task])
    monkeypatch.chdir(folder)
    file = folder / f'{task}_lazy.py'
    if not file.exists():
        cfg = tiny.tiny(task, folder / f'{task}.py')
        torch.save(build(cfg).backbone.state_dict(), folder / f'{task}.pth')
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=str(folder / f'{task}.pth')
        )
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        cfg.custom_hooks = [dict(type='EMAHook')]
        file.write_text(as_lazy(cfg))
    return file


@every_task
def test_it_is_as_pure_as_that(task, config):
    assert is_lazy(config)
    cfg = load_config(str(config))
    kinds = [node['type'] for node in walk(dict(cfg.items())) if 'type' in node]
    assert sum(not isinstance(kind, str) for kind in kinds) > 20
    assert not isinstance(cfg.model.backbone.type, str)
    assert task_for(cfg).name == task
    assert cfg.default_scope == HOSTS[task]


@every_task
def test_every_question_about_a_type_is_answered(task, config):
    cfg = load_config(str(config))
    assert family_of(cfg.model.backbone).title == 'PaCa-ViT'
    assert [init['checkpoint'] for init in weights_of(cfg.model.backbone)] == [
        f'{config.parent}/{task}.pth'
    ]
    leave_weights_out(cfg.model)
    assert cfg.model.backbone.init_cfg is None
    assert prepare_cpu(cfg, 'none') == ['no GPU: training in float32 instead of mixed precision']
    assert cfg.optim_wrapper == {**cfg.optim_wrapper, 'type': 'OptimWrapper'}
    assert 'loss_scale' not in cfg.optim_wrapper
    shapes = load_config(str(config), shapes=True)
    assert not shapes.custom_hooks
    assert shapes.model.backbone.init_cfg is None


@pytest.mark.slow
@every_task
def test_it_is_trained_tested_and_inferred(task, config, capfd):
    work = f'work_{task}'
    assert run('train', config, '--work-dir', work) == 0
    out = capfd.readouterr().out
    assert 'training in float32' in out
    checkpoint = Path(work, 'last_checkpoint').read_text().strip()
    assert run('test', config, checkpoint, '--tta', '--show-dir', f'shown_{task}', '--out',
               f'{task}.pkl', '--work-dir', work) == 0  # fmt: skip
    assert (
        run('infer', 'data/shapes/val/000001.png', config, checkpoint, '--out', f'in_{task}') == 0
    )
    assert len(json.loads(Path(f'in_{task}/predictions.json').read_text())) == 1
    capfd.readouterr()
    assert run('get_flops', config, '--shape', '64', '--depth', '0') == 0
    names = [line.split()[0] for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert {'MaskRCNN', 'EncoderDecoder', 'ImageClassifier'} & {*names}


@pytest.mark.slow
@every_task
def test_it_runs_on_the_embedded_dataset_too(task, config):
    small = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0',
             'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
             'val_dataloader.persistent_workers=False']  # fmt: skip
    if task == 'cls':
        small.append('train_dataloader.batch_size=4')
    if task == 'seg':
        small[1:2] = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    assert run('train', config, '--shapes', '--work-dir', f'shapes_{task}', *small) == 0


@pytest.mark.slow
def test_a_search_writes_a_complete_config_of_it(folder, monkeypatch):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(folder)
    cfg = tiny.tiny('cls', folder / 'cls.py')
    lazy = folder / 'searched.py'
    lazy.write_text(as_lazy(cfg))
    assert run('analyze_frequency', lazy, '--search', '--max-params', '1', '--at-least', '0.01',
               '--num-images', '2', '--seeds', '1', '--depths', '1', '--widths', '2',
               '--out', 'freq') == 0  # fmt: skip
    found = load_config('freq/searched_nearest.py')
    assert list(found.model.backbone.arch.embed_dims) == [16] * 4
    assert found.model.head.in_channels == 16
    build(found)


def test_a_task_is_told_by_the_class_of_its_model():
    pytest.importorskip('mmpretrain')
    from mmpretrain.models import ImageClassifier

    class Own(ImageClassifier):
        pass

    assert task_for(dict(model=dict(type=Own))).name == 'cls'
    assert task_for(dict(model=dict(type='mmdet.MaskRCNN'), default_scope=None)).name == 'det'
    with pytest.raises(UserError, match='default_scope'):
        task_for(dict(model=dict(type='MaskRCNN')))


def test_names_of_types():
    from mmengine.model import PretrainedInit
    from torch.nn import BatchNorm2d, SyncBatchNorm

    from paca_mm.models import PaCaViT

    assert (
        type_name(PaCaViT)
        == type_name('paca_mm.PaCaViT')
        == type_name(dict(type=PaCaViT))
        == 'PaCaViT'
    )
    assert (
        type_name('paca_mm.models.paca.backbone.PaCaViT') == 'PaCaViT'
    )  # as mmengine writes classes
    assert scope_name(PaCaViT) == scope_name('paca_mm.PaCaViT') == 'paca_mm'
    assert scope_name('PaCaViT') == scope_name({}) == type_name({}) == type_name(None) == ''
    assert [type_name(kind) for kind in (PretrainedInit, SyncBatchNorm, BatchNorm2d)] == [
        'Pretrained',
        'SyncBN',
        'BN',
    ]
    assert family_of('PaCaViT') is None  # another's of that name
    assert family_of('paca_mm.PaCaHead') is None
