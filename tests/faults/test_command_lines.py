"""A bad command line or config costs one message with the cure and exit code 2, before any iteration."""

import json

import pytest

pytest.importorskip('mmpretrain')

from mmengine.model import BaseModel

from helpers import tiny
from helpers.tool import run
from paca_mm.commands.options import cfg_options
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('command_lines')
    tiny.write_shapes(folder)
    for task in tiny.MODELS:
        tiny.write_config(folder / f'{task}.py', task)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """The folder; a step of training fails the test."""
    monkeypatch.chdir(folder)

    def step(*args, **kwargs):
        raise AssertionError('it trains')

    monkeypatch.setattr(BaseModel, 'train_step', step)
    return folder


def fails(capfd, name, *words):
    """Run a command that must fail; returns its message."""
    assert run(name, *words) == 2
    said = capfd.readouterr().err
    assert 'Traceback' not in said.rpartition('error: ')[0]
    message = said.rpartition('error: ')[2]
    assert 'to fix it: ' in message or 'must be' in message, message
    return message


#: Options, and words of the message. Nothing is built.
OPTIONS = {
    'foo': 'must be KEY=VALUE',
    '=3': 'must be KEY=VALUE',
    ' =3': 'must be KEY=VALUE',
    'a..b=3': 'a name between two dots is missing',
    '.a=3': 'a name between two dots is missing',
    'train_cfg.=3': 'a name between two dots is missing',
    'x=[1,2': "1 '[' and 0 ']'",
    'x=[1': "1 '[' and 0 ']'",
    'x=1,2)': "0 '(' and 1 ')'",
    'model.backbone=dict(type=A,depth=3)': 'a dict cannot be given as one value',
    "model.backbone={'type':'A'}": 'a dict cannot be given as one value',
    'trian_cfg.max_epochs=3': "no 'trian_cfg', and nothing would read it; did you mean train_cfg",
    'lode_from=x.pth': 'did you mean load_from',
    'train_pipeline.99.type=x': 'train_pipeline is a list of',
    'train_pipeline.first.type=x': "which has no 'first'",
    'default_hooks.logger.interval.a=3': 'default_hooks.logger.interval is 10 (int), and has no parts',
    'train_cfg.max_epochs.a=3': 'train_cfg.max_epochs is 1 (int), and has no parts',
    'load_from.x=3': 'load_from is None, and has no parts',
    'train_cfg=3': 'train_cfg is a dict, which has',
    'optim_wrapper=SGD': 'optim_wrapper is a dict, which has',
}


@pytest.mark.parametrize('option', OPTIONS)
def test_options_that_lead_nowhere(here, capfd, option):
    assert OPTIONS[option] in fails(capfd, 'train', 'cls.py', '--cfg-options', option)


def test_a_part_of_a_config(here, capfd):
    assert 'has no model' in fails(capfd, 'train', 'configs/cls/_base_/runtime.py')


def test_options_that_contradict_each_other(here, capfd):
    words = ['train_cfg.max_epochs=3', 'train_cfg.max_epochs.x=1']
    message = fails(capfd, 'train', 'cls.py', '--cfg-options', *words)
    assert 'train_cfg.max_epochs is given beside options for its parts' in message


@pytest.mark.parametrize('command', ['check_dataset', 'analyze_frequency'])
def test_every_command_with_options_checks_them(here, capfd, command):
    assert 'did you mean train_cfg' in fails(
        capfd, command, 'cls.py', '--cfg-options', 'trian_cfg.max_epochs=3'
    )


def test_options_that_fit_are_taken(here):
    options = cfg_options(
        ['model.backbone.with_cp=True', 'model.neck=None', 'sync_bn=torch', 'max_skipped=3',
         'train_dataloader.dataset.pipeline.0.color_type=grayscale', 'resume=True']
    )  # fmt: skip
    cfg = load_config('cls.py', options)
    assert cfg.model.backbone.with_cp is True
    assert (cfg.model.neck, cfg.sync_bn, cfg.max_skipped, cfg.resume) == (None, 'torch', 3, True)
    assert cfg.train_dataloader.dataset.pipeline[0].color_type == 'grayscale'


def test_a_variable_that_nobody_reads_is_noted(here, capsys):
    load_config('cls.py', {'data_root': 'elsewhere', 'train_cfg.max_epochs': 2})
    (note,) = capsys.readouterr().out.splitlines()
    assert 'note: --cfg-options data_root changes a variable' in note
    assert 'train_dataloader.dataset.data_root' in note


#: What is wrong in a config of classification, and words of the message.
BUILT = {
    'default_hooks.checkpoint.intervall=1': (
        "default_hooks.checkpoint.intervall: SafeCheckpointHook has no argument 'intervall'; "
        'did you mean interval'
    ),
    'default_hooks.checkpoint.meta=1': "has no argument 'meta'",
    'default_hooks.logger.intervals=1': 'default_hooks.logger.intervals: LoggerHook has no argument',
    'optim_wrapper.clip_grad.max_nrm=1': 'optim_wrapper.clip_grad.max_nrm: clip_grad_norm_ has no',
    'optim_wrapper.clip_gard=1': "OptimWrapper has no argument 'clip_gard'; did you mean clip_grad",
    'optim_wrapper.optimizer.wieght_decay=1': 'AdamW has no argument',
    'optim_wrapper.optimizer.lr=abc': "optim_wrapper.optimizer.lr='abc': a number is expected",
    'optim_wrapper.optimizer.lr=-1': 'cannot be made as the config says: Invalid learning rate',
    'optim_wrapper.paramwise_cfg.norm_decay=0': 'did you mean norm_decay_mult',
    'optim_wrapper.accumulative_counts=0': 'accumulative_counts',
    'param_scheduler.0.beginn=1': "param_scheduler.0.beginn: LinearLR has no argument 'beginn'",
    'param_scheduler.0.start_factor=9': 'param_scheduler.0 (LinearLR) cannot be made',
    'train_dataloader.batchsize=1': 'train_dataloader.batchsize: DataLoader has no argument',
    'train_dataloader.batch_size=0': 'batch_size should be a positive integer',
    'train_dataloader.num_workers=-1': 'num_workers option should be non-negative',
    'train_dataloader.sampler.shufle=True': "DefaultSampler has no argument 'shufle'",
    'train_dataloader.dataset.data_rot=x': 'train_dataloader.dataset.data_rot: ',
    'train_dataloader.dataset.pipeline.0.colour=x': 'train_dataloader.dataset.pipeline.0.colour: ',
    'val_evaluator.topc=1': "val_evaluator.topc: Accuracy has no argument 'topc'; did you mean topk",
    'visualizer.nam=x': "UniversalVisualizer has no argument 'nam'",
    'log_processor.window=x': "LogProcessor has no argument 'window'",
    'randomness.seeds=1': "randomness.seeds: set_randomness has no argument 'seeds'",
    'env_cfg.mp_cfg.start=x': 'env_cfg.mp_cfg.start: set_multi_processing',
    'train_cfg.max_epoch=3': "train_cfg.max_epoch: EpochBasedTrainLoop has no argument 'max_epoch'",
    'train_cfg.max_epochs=0': 'train_cfg.max_epochs=0: it must be a number of 1 or more',
    'train_cfg.max_epochs=-1': 'it must be a number of 1 or more',
    'train_cfg.max_epochs=abc': "train_cfg.max_epochs='abc': it must be a number",
    'train_cfg.val_interval=0': 'train_cfg.val_interval=0: it must be a number of 1 or more',
    'model.backbone.depth=50': "model.backbone.depth: PaCaViT has no argument 'depth'",
    'model.head.channels=8': 'model.head.channels: LinearClsHead has no argument',
    'model.neck.type=NoNeck': "type='NoNeck', which is not in the",
    'model.head.loss.loss_wieght=1': 'model.head.loss.loss_wieght: ',
    'default_hooks.checkpoint.save_best=mIoU': 'the metrics of val_evaluator are called',
    'optim_wrapper=None': "mmengine's Runner does not take the config: train_dataloader, train_cfg",
}


@pytest.mark.parametrize('option', BUILT)
def test_what_is_built_is_named_with_its_place(here, capfd, option):
    assert BUILT[option] in fails(capfd, 'train', 'cls.py', '--cfg-options', option)


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'a.py': "x = 1\n_base_ = 'b.py'", 'b.py': "_base_ = ['a.py']"},
         "b.py, line 1: _base_ = 'a.py' leads back"),
        ({'a.py': "_base_ = 'a.py'"}, "a.py, line 1: _base_ = 'a.py' leads back"),
        ({'a.py': "_base_ = 'b.py'", 'b.py': "y = 2\n\n_base_ = [\n    'c.py',\n]"},
         "b.py, line 4 takes up _base_ = 'c.py'"),
        ({'a.py': '_base_ = 5'}, 'a.py, line 1: _base_ holds 5, where the path of a config must be'),
        ({'a.json': '[1, 2]'}, 'a.json holds a list, where a config has settings by name'),
        ({'a.json': '{"_base_": "b.json"}'}, "a.json takes up _base_ = 'b.json'"),
        ({'a.py': 'from mmengine.config import read_base\nwith read_base():\n'
                  '    from .gone import *\n'}, "a.py, line 3 takes up _base_ = 'gone.py'"),
    ],
)  # fmt: skip
def test_bases_that_are_wrong_are_named_with_their_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as e:
        load_config(str(tmp_path / next(iter(files))))
    assert message in str(e.value)
    assert 'to fix it: ' in str(e.value)


def test_a_config_of_json_is_a_config(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(dict(model=dict(type='mmdet.RTMDet'))))
    assert load_config(str(tmp_path / 'a.json')).default_scope == 'mmdet'


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        ({}, '--launcher pytorch, but none of RANK'),
        ({'RANK': '0'}, 'but none of WORLD_SIZE'),
        (
            {'RANK': 'zero', 'WORLD_SIZE': '2'},
            "RANK='zero' in the environment: it must be a number",
        ),
    ],
)
def test_a_launcher_without_its_variables(here, capfd, monkeypatch, variables, message):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in fails(capfd, 'train', 'cls.py', '--launcher', 'pytorch')


def test_a_work_directory_that_cannot_be_made(here, capfd):
    (here / 'a_file').touch()
    message = fails(capfd, 'train', 'cls.py', '--work-dir', 'a_file/below')
    assert 'a_file/below cannot be written: ' in message
