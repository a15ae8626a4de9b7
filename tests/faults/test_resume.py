"""A run that was stopped and resumed is the one that was not, to the bit; nothing is left, nothing lost."""

import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from helpers import tiny
from helpers.tool import forget_runs, job, run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.checkpoints import save_now
from paca_mm.engine.runner import SafeRunner

# ---- a training that takes a tenth of a second: 3 batches of 2 an epoch, the last one of 1; 3 epochs


class Data(Dataset):
    """Samples that draw from all three generators, as the transforms of the hosts do."""

    metainfo: dict = {}

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rng = torch.Generator().manual_seed(index)
        drawn = np.random.rand() + random.random()
        return torch.randn(4, generator=rng) + drawn + torch.randn(4), torch.randn(2, generator=rng)


class Model(BaseModel):
    """A layer with what draws in the model, and statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.layer = nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2)

    def forward(self, inputs, targets, mode='tensor'):
        out = self.layer(self.drop(self.norm(inputs))) if len(inputs) > 1 else self.layer(inputs)
        error = (out - targets).square().mean(1)
        return dict(loss=error.mean()) if mode == 'loss' else [dict(error=e.item()) for e in error]


class Score(BaseMetric):
    """The mean error."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(error=sum(r['error'] for r in results) / len(results))


class Killed(BaseException):
    """What a test ends a run with: nothing catches it."""


class KillAt(Hook):
    """Calls something at a moment of a run: at the n-th call of a method of the hooks'."""

    priority = 'LOWEST'

    def __init__(self, method, count, action=None):
        self.left = count
        self.action = action
        setattr(self, method, self._called)

    def _called(self, runner, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            if self.action:
                self.action(runner)
            raise Killed


LOOPS = {
    'epoch': dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1),
    'iteration': dict(type='IterBasedTrainLoop', max_iters=9, val_interval=3),
}


def toy(folder, loop='epoch', sampler='DefaultSampler', batch_size=2, more=(), checkpoint=(), **kwargs):
    """A runner of the toy training; ``kwargs`` are for its data loader."""
    forget_runs()
    loader = dict(
        dataset=Data(), batch_size=batch_size, num_workers=0,
        sampler=dict(type=sampler, shuffle=True), collate_fn=dict(type='default_collate'),
    )  # fmt: skip
    torch.manual_seed(1)
    settings = dict(
        model=Model(),
        work_dir=str(folder),
        train_dataloader={**loader, **kwargs},
        val_dataloader={**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)},
        train_cfg=LOOPS[loop],
        val_cfg=dict(),
        val_evaluator=[Score()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=8)],
        default_hooks=dict(
            checkpoint=dict(
                type='paca_mm.SafeCheckpointHook', interval=1, by_epoch=False, **dict(checkpoint)
            )
        ),
        log_processor=dict(by_epoch=loop == 'epoch'),
        randomness=dict(seed=7),
        log_level='ERROR',
        experiment_name=str(folder).replace('/', '_'),
    )
    return SafeRunner(**{**settings, **dict(more)})


def train(folder, *args, **kwargs):
    runner = toy(folder, *args, **kwargs)
    runner.train()
    return runner


def resume(source, folder, *args, more=(), **kwargs):
    """Go on from a copy of a checkpoint in a folder of its own: what is killed leaves no more."""
    folder.mkdir()
    shutil.copy(source, folder)
    return train(folder, *args, more={'resume': True, **dict(more)}, **kwargs)


def same(a, b, where=''):
    """Assert that two checkpoints are equal to the bit, but for clocks and paths."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            name = str(key)
            clock = name.endswith('time') or name in ('eta', 'memory', 'last_ckpt', 'meta')
            if not clock and not name.endswith('best_ckpt') and 'cfg' not in name:
                same(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f'{where}[{i}]')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f'{where}: {(a - b).abs().max()}'
    elif isinstance(a, HistoryBuffer):
        assert all(map(np.array_equal, a.data, b.data)), f'{where}: {a.data} {b.data}'
    else:
        assert np.array_equal(a, b), f'{where}: {a} {b}'


def same_files(a, b):
    same(read_checkpoint(a), read_checkpoint(b))


@pytest.fixture(scope='module', autouse=True)
def _no_pauses():
    """mmengine sleeps for two seconds wherever the data of an iteration loop end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))
        yield


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """Runs without interruption, by loop and sampler, with a checkpoint of every step."""
    made = {}

    def of(loop, sampler='DefaultSampler'):
        if (loop, sampler) not in made:
            made[loop, sampler] = tmp_path_factory.mktemp(f'{loop}_{sampler}')
            train(made[loop, sampler], loop, sampler)
        return made[loop, sampler]

    return of


# ---- to the bit


@pytest.mark.parametrize(
    ('workers', 'persistent'), [(0, False), (1, True), (2, False), (2, True)]
)
@pytest.mark.parametrize(
    ('loop', 'sampler'),
    [('epoch', 'DefaultSampler'), ('iteration', 'InfiniteSampler'), ('iteration', 'DefaultSampler')],
)
@pytest.mark.parametrize('step', [4, 6])
def test_a_resumed_run_is_the_uninterrupted_one(
    straight, tmp_path, loop, sampler, step, workers, persistent
):
    """In the middle of an epoch, and at its end; the run before had no workers."""
    expected = straight(loop, sampler)
    resume(
        expected / f'iter_{step}.pth', tmp_path / 'resumed', loop, sampler,
        num_workers=workers, persistent_workers=persistent,
    )  # fmt: skip
    same_files(expected / 'iter_9.pth', tmp_path / 'resumed/iter_9.pth')
