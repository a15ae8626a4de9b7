"""Averaged weights (EMA) beside any file: bare, wrapped, official, of another head."""

import copy

import pytest
import torch
from mmengine.registry import RUNNERS

from helpers import tiny
from helpers.configs import build
from helpers.tool import run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.load import unwrapped
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.engine.tta import use_tta

pytest.importorskip('mmpretrain')

HOOKS = {
    'mmengine': dict(type='mmengine.EMAHook', ema_type='ExponentialMovingAverage'),
    'mmdet': dict(type='mmengine.EMAHook', ema_type='mmdet.ExpMomentumEMA', update_buffers=True),
    'strict': dict(type='mmengine.EMAHook', strict_load=True),
    'mmpretrain': dict(type='mmpretrain.EMAHook', evaluate_on_origin=True),
}
every_hook = pytest.mark.parametrize('hook', HOOKS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ema')
    tiny.write_shapes(folder)
    tiny.write_config(folder / 'tiny.py', 'cls')
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def config(hook, **settings):
    if hook == 'mmdet':
        pytest.importorskip('mmdet')
    cfg = load_config('tiny.py')
    cfg.custom_hooks = [copy.deepcopy(HOOKS[hook])]
    cfg.update(work_dir='runs', **settings)
    return cfg


def weights():
    torch.manual_seed(3)
    return build(load_config('tiny.py')).state_dict()


def saved(kind, state):
    """A file that holds the weights in some form."""
    file = f'{kind}.pth'
    if kind == 'safetensors':
        save_file = pytest.importorskip('safetensors.torch').save_file
        file = 'bare.safetensors'
        save_file(dict(state), file)
    elif kind == 'official':
        from paca_mm.checkpoint import classifier_to_official, rename_to_official

        rename_to_official(state, 'backbone.')
        classifier_to_official(state)
        torch.save({'state_dict': state}, file)
    else:
        torch.save(
            {'bare': state, 'model': {'model': state}, 'saved': {'state_dict': state}}[kind], file
        )
    return file


class Watched:
    """Keeps the weights that a model predicts with."""

    def __init__(self, model):
        self.model, self.step, self.states = model, model.test_step, []
        model.test_step = self

    def __call__(self, data):
        self.states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return self.step(data)


def averaged(runner):
    """The model of the run's EMA hook."""
    return next(hook.ema_model.module for hook in runner._hooks if hasattr(hook, 'ema_model'))


def equal(model, state):
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items())


@every_hook
@pytest.mark.parametrize('kind', ['bare', 'model', 'safetensors', 'saved', 'official'])
def test_both_the_model_and_its_average_begin_with_the_file(hook, kind):
    state = weights()
    runner = RUNNERS.build(config(hook, load_from=saved(kind, copy.deepcopy(state))))
    runner.call_hook('before_run')
    runner.load_or_resume()
    assert equal(runner.model, state)
    assert equal(averaged(runner), state)


@every_hook
def test_another_head_and_other_channels_begin_anew_in_both(hook):
    state = weights()
    cfg = config(hook, load_from=saved('bare', copy.deepcopy(state)))
    cfg.model.head.num_classes = 3
    cfg.model.backbone.in_channels = 4
    runner = RUNNERS.build(cfg)
    runner.call_hook('before_run')
    runner.load_or_resume()
    assert runner.model.backbone.patch_embed.proj[0].weight.shape[1] == 4
    assert equal(averaged(runner), runner.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('hook', ['mmengine', 'mmpretrain'])
def test_a_run_with_averages_is_tested_resumed_and_begun_from(hook):
    cfg = config(hook)
    cfg.dump('ema.py')
    work = f'work_{hook}'
    assert run('train', 'ema.py', '--work-dir', work) == 0
    content = read_checkpoint(f'{work}/epoch_1.pth')
    assert content['ema_state_dict'].keys() >= {f'module.{key}' for key in content['state_dict']}

    # Tested, alone and with augmentation: with the averages, which are the file's state_dict.
    for tta in (False, True):
        cfg = config(hook, load_from=f'{work}/epoch_1.pth')
        if tta:
            use_tta(cfg, TASKS['cls'])
        runner = RUNNERS.build(cfg)
        own = unwrapped(runner.model)
        seen = Watched(own)
        runner.test()
        for key in dict(own.named_parameters()):
            assert torch.equal(seen.states[0][key], content['state_dict'][key]), key

    # Resumed: the model goes on with its own weights, its average with the averages.
    runner = RUNNERS.build(config(hook, load_from=f'{work}/epoch_1.pth', resume=True))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    for key, value in dict(runner.model.named_parameters()).items():
        assert torch.equal(value, content['ema_state_dict'][f'module.{key}']), key
        assert torch.equal(averaged(runner).state_dict()[key], content['state_dict'][key]), key

    # Begun from, with another head: mmpretrain's hook looks for every average in the state dict.
    cfg = config(hook, load_from=f'{work}/epoch_1.pth')
    cfg.model.head.num_classes = 3
    runner = RUNNERS.build(cfg)
    runner.call_hook('before_run')
    runner.load_or_resume()
    q = 'backbone.stage1.0.attn.q.weight'
    assert torch.equal(averaged(runner).state_dict()[q], content['state_dict'][q])


@pytest.mark.slow
def test_weights_without_anything_around_them_are_tested_with_a_hook_in_the_config(capfd):
    state = weights()
    cfg = config('mmengine')
    cfg.dump('ema.py')
    for kind in ('bare', 'model', 'safetensors'):
        assert run('test', 'ema.py', saved(kind, dict(state))) == 0
    assert capfd.readouterr().out.count('done in') == 3
