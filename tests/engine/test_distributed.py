"""Two processes on CPUs: one step of theirs is one step of a single process on the whole batch."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from mmengine.registry import FUNCTIONS
from test_runner import TINY

from helpers.tool import job

pytest.importorskip('mmdet')

from paca_mm.checkpoint import read_checkpoint
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config
from paca_mm.engine.distributed import import_in_turn, prepare_cpu
from paca_mm.families import families, load_member
from paca_mm.paths import assets_root

#: A step whose loss is a mean over images, so that splitting the batch changes nothing: plain
#: SGD on the backbone's mean square, with the images in a fixed order.
STEP = """
import sys
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from paca_mm.engine.distributed import prepare_cpu
from paca_mm.models import PaCaViT

@MODELS.register_module()
class Square(BaseModel):
    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = PaCaViT(drop_path_rate=0.0, **kwargs)
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': sum((out ** 2).mean() * 100 for out in self.backbone(inputs))}

@DATASETS.register_module()
class Images(torch.utils.data.Dataset):
    def __init__(self):
        self.images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return dict(inputs=self.images[i])

arch = dict(embed_dims=(8,) * 4, num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(2,) * 4)
launcher, work_dir, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
cfg = Config(dict(
    model=dict(type='Square', arch=arch, num_clusters=(3, 3, 3, 0)),
    work_dir=work_dir, launcher=launcher, runner_type='paca_mm.SafeRunner',
    train_dataloader=dict(batch_size=batch, num_workers=0, dataset=dict(type='Images'),
                          sampler=dict(type='DefaultSampler', shuffle=False),
                          collate_fn=dict(type='default_collate')),
    train_cfg=dict(by_epoch=True, max_epochs=2),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
    randomness=dict(seed=0), default_hooks=dict(checkpoint=dict(type='paca_mm.SafeCheckpointHook')),
))
prepare_cpu(cfg, launcher)
from mmengine.registry import RUNNERS
RUNNERS.build(cfg).train()
"""


@pytest.mark.slow
def test_two_processes_step_as_one(tmp_path):
    script = tmp_path / 'step.py'
    script.write_text(STEP)
    one = job(1, script, 'none', 'one', 4, cwd=tmp_path)
    assert one.returncode == 0, one.stderr[-2000:]
    two = job(2, script, 'pytorch', 'two', 2, cwd=tmp_path)
    assert two.returncode == 0, two.stderr[-2000:]
    expected = read_checkpoint(tmp_path / 'one/epoch_2.pth')['state_dict']
    found = read_checkpoint(tmp_path / 'two/epoch_2.pth')['state_dict']
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7, msg=key)


def sharded_on_cpu():
    """Whether torch's FSDP runs on CPUs: it asks for a stream of a priority, which old ones lack."""
    try:
        torch.cpu.Stream(priority=-1)
    except TypeError:
        return False
    return True


@pytest.fixture(scope='module')
def parallel(tmp_path_factory):
    """What one process and two have made of the same tiny trainings; then one of the two is killed."""
    folder = tmp_path_factory.mktemp('parallel')
    ensure_shapes(folder / 'data/shapes', num_train=4, num_val=5)
    script = Path(__file__).parents[1] / 'helpers/parallel.py'
    one = job(1, script, folder, 'cls', 'seg', 'det', cwd=folder)
    assert one.returncode == 0, one.stderr[-2000:]
    checks = ['cls', 'seg', 'det', *(['fsdp'] if sharded_on_cpu() else []), 'dies']
    two = job(2, script, folder, *checks, cwd=folder, patience=60)
    return folder, two


def found(parallel, check, processes, rank=0):
    folder, done = parallel
    file = folder / f'{check}_{processes}_{rank}.pth'
    assert file.is_file(), done.stderr[-3000:]
    return torch.load(file)


@pytest.mark.slow
@pytest.mark.parametrize('check', ['cls', 'seg', 'det'])
def test_two_processes_train_and_validate_as_one(parallel, check):
    """Losses, weights, and the metrics of five images, which two processes cannot share evenly."""
    one, two = found(parallel, check, 1), found(parallel, check, 2)
    other = found(parallel, check, 2, rank=1)
    losses = [sum(pair) / 2 for pair in zip(two['losses'], other['losses'], strict=True)]
    assert losses == pytest.approx(one['losses'], rel=1e-5)
    assert two['losses'] != other['losses']
    for key, value in one['state'].items():
        torch.testing.assert_close(two['state'][key], value, rtol=1e-4, atol=1e-6, msg=key)
        torch.testing.assert_close(two['state'][key], other['state'][key], rtol=0, atol=0, msg=key)
    assert two['metrics'] == pytest.approx(one['metrics'], rel=1e-3)
    assert two['metrics']


@pytest.mark.slow
@pytest.mark.skipif(not sharded_on_cpu(), reason="this torch's FSDP needs a GPU")
def test_a_model_in_pieces_trains_as_a_whole_one(parallel):
    whole, pieces = found(parallel, 'cls', 2), found(parallel, 'fsdp', 2)
    assert pieces['losses'] == pytest.approx(whole['losses'], rel=1e-5)
    saved = read_checkpoint(pieces['saved'])['state_dict']
    assert saved.keys() == whole['state'].keys()
    for key, value in whole['state'].items():
        torch.testing.assert_close(saved[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_one_with_a_message(parallel):
    folder, done = parallel
    assert done.returncode in (1, -9)
    assert not (folder / 'dies_2_0.pth').exists()
    assert 'error: process 0 of 2 waited for another one that has ended' in done.stderr


@pytest.mark.slow
def test_four_processes_train_and_validate_as_one(parallel):
    folder, _ = parallel
    script = Path(__file__).parents[1] / 'helpers/parallel.py'
    four = job(4, script, folder, 'cls', cwd=folder)
    assert four.returncode == 0, four.stderr[-2000:]
    one = found(parallel, 'cls', 1)
    every = [found(parallel, 'cls', 4, rank) for rank in range(4)]
    losses = [sum(each) / 4 for each in zip(*(rank['losses'] for rank in every), strict=True)]
    assert losses == pytest.approx(one['losses'], rel=1e-5)
    assert every[0]['metrics'] == pytest.approx(one['metrics'], rel=1e-3)


@pytest.mark.slow
def test_the_tools_run_in_two_processes(tmp_path):
    """Two epochs of a tiny detector, its evaluation, and the same evaluation by tools/test.py."""
    ensure_shapes(tmp_path / 'data/shapes', num_train=6, num_val=3)
    base = str(assets_root() / 'configs/det/mask_rcnn_paca_shapes.py')
    (tmp_path / 'tiny.py').write_text(TINY.format(base=base))
    train = job(2, assets_root() / 'tools/train.py', 'tiny.py', '--launcher', 'pytorch',
                '--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2',
                cwd=tmp_path)  # fmt: skip
    assert train.returncode == 0, train.stderr[-2000:]
    assert train.stdout.count('done in') == 1
    test = job(2, assets_root() / 'tools/test.py', 'tiny.py', 'work_dirs/tiny/epoch_2.pth',
               '--launcher', 'pytorch', cwd=tmp_path)  # fmt: skip
    assert test.returncode == 0, test.stderr[-2000:]

    def metrics(text):
        return [line for line in text.splitlines() if line.startswith('  coco/')]

    assert metrics(test.stdout)
    assert metrics(test.stdout) == metrics(train.stdout)


def test_a_config_for_gpus_is_made_ready_for_the_cpu():
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    cfg = load_config('configs/det/mask_rcnn_paca.py')
    (note,) = prepare_cpu(cfg, 'none')
    assert 'float32' in note
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper


@pytest.mark.parametrize('name', [name for name, family in families().items() if family.backbone])
def test_every_block_of_a_family_is_a_piece(name):
    family = families()[name]
    model = load_member(family.backbone)(**family.toy)
    policy = FUNCTIONS.get('paca_mm.wrap_blocks')
    pieces = [m for m in model.modules() if policy(m, recurse=False, nonwrapped_numel=0)]
    assert len(pieces) > 1
    assert not any(policy(child, False, 0) for piece in pieces for child in piece.children())
    assert policy(model, recurse=True, nonwrapped_numel=0)
    assert policy(torch.nn.ReLU(), False, 0, also=['torch.nn.modules.activation.ReLU'])
    found = {f'{type(piece).__module__}.{type(piece).__name__}' for piece in pieces}
    assert found == {*family.blocks}


def test_a_config_takes_up_the_strategy(tmp_path):
    configs = assets_root() / 'configs'
    (tmp_path / 'mine.py').write_text(
        f'_base_ = [{str(configs / "det/mask_rcnn_paca.py")!r}, '
        f'{str(configs / "_base_/sharded.py")!r}]\n'
        "runner_type = 'FlexibleRunner'\n"
        'strategy = _base_.fsdp\n'
        'optim_wrapper = dict(**_base_.fsdp_optim)\n'
    )
    cfg = load_config(str(tmp_path / 'mine.py'))
    assert cfg.optim_wrapper.use_fsdp is True
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    if not torch.cuda.is_available():
        prepare_cpu(cfg, 'none')
        assert 'use_fsdp' not in cfg.optim_wrapper


def test_what_makes_a_file_at_its_import_is_imported_by_one_process_at_a_time(
    tmp_path, monkeypatch
):
    """Two that import yapf together on a new machine: one read half of its grammar and failed."""
    (tmp_path / 'slow_import.py').write_text(
        'import os, time\n'
        'busy = os.path.join(os.path.dirname(__file__), "busy")\n'
        'os.mkdir(busy)\n'  # an error where the other one is at it
        'time.sleep(0.5)\n'
        'os.rmdir(busy)\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    fork = multiprocessing.get_context('fork')
    together = [fork.Process(target=import_in_turn, args=('slow_import',)) for _ in range(3)]
    for process in together:
        process.start()
    for process in together:
        process.join(60)
    assert [process.exitcode for process in together] == [0, 0, 0]
    import_in_turn('no_module_of_this_name')
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))  # no folder for a lock
    import_in_turn('slow_import')
