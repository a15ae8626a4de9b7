"""A run that was stopped and resumed is the one that was not, to the bit; and leaves no more."""

import multiprocessing
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from torch.utils.data import BatchSampler, Dataset

from helpers import tiny
from helpers.tool import forget_runs, job, run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.checkpoints import save_now
from paca_mm.engine.runner import SafeRunner
from paca_mm.engine.seeds import SeededBatches

# ---- a training that takes a tenth of a second: 3 batches of 2 an epoch, the last one of 1; 3 epochs


class Data(Dataset):
    """Samples that draw from all three generators, as the transforms of the hosts do."""

    def __init__(self):
        self.metainfo = {}

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


REGULAR = dict(type='paca_mm.SafeCheckpointHook', interval=1, by_epoch=False)
LOOPS = {
    'epoch': dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1),
    'iteration': dict(type='IterBasedTrainLoop', max_iters=9, val_interval=3),
}


made = []


def toy(
    folder, loop='epoch', sampler='DefaultSampler', batch_size=2, more=(), checkpoint=(), **kwargs
):
    """A runner of the toy training; ``kwargs`` are for its data loader."""
    forget_runs()
    while made:
        made.pop()._end_workers()  # of one that was killed
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
        default_hooks=dict(checkpoint={**REGULAR, **dict(checkpoint)}),
        log_processor=dict(by_epoch=loop == 'epoch'),
        randomness=dict(seed=7),
        log_level='ERROR',
        experiment_name=str(folder).replace('/', '_'),
    )
    made.append(SafeRunner(**{**settings, **dict(more)}))
    return made[0]


def train(folder, *args, **kwargs):
    runner = toy(folder, *args, **kwargs)
    runner.train()
    return runner


def resume(source, folder, *args, more=(), **kwargs):
    """Go on from a copy of a checkpoint in a folder of its own: what is killed leaves no more."""
    folder.mkdir()
    shutil.copy(source, folder)
    return train(folder, *args, more={'resume': True, **dict(more)}, **kwargs)


#: What belongs to a run and not to its training: clocks, paths, files on the disk.
OWN = ('meta', 'eta', 'memory', 'experiment_name', 'cfg', 'last_ckpt', 'doomed_ckpts')


def same(a, b, where=''):
    """Assert that two checkpoints are equal to the bit, but for clocks and paths."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            name = str(key)
            if name not in OWN and not name.endswith(('time', 'best_ckpt')):
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
    ('step', 'workers', 'persistent'), [(4, 0, False), (4, 2, True), (6, 1, True), (6, 2, False)]
)
@pytest.mark.parametrize(
    ('loop', 'sampler'),
    [
        ('epoch', 'DefaultSampler'),
        ('iteration', 'InfiniteSampler'),
        ('iteration', 'DefaultSampler'),
    ],
)
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


def test_an_unfinished_accumulation_goes_on(tmp_path):
    three = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=3))
    train(tmp_path / 'straight', more=three)
    resume(tmp_path / 'straight/iter_4.pth', tmp_path / 'resumed', more=three)
    same_files(tmp_path / 'straight/iter_9.pth', tmp_path / 'resumed/iter_9.pth')


def test_samples_draw_the_same_in_one_process_and_two(monkeypatch):
    """Two processes with a batch of 2 each see what one sees with a batch of 4."""

    def drawn(size, rank, processes):
        monkeypatch.setattr('paca_mm.engine.seeds.get_rank', lambda: rank)
        monkeypatch.setattr('paca_mm.engine.seeds.get_world_size', lambda: processes)
        own = list(range(rank, 12, processes))
        batches = SeededBatches(BatchSampler(own, size, drop_last=False), seed=3)
        return [{index: np.random.rand() for index in batch} for batch in batches]

    first, second = drawn(2, 0, 2), drawn(2, 1, 2)
    assert drawn(4, 0, 1) == [a | b for a, b in zip(first, second, strict=True)]
    assert len({value for batch in first for value in batch.values()}) == 6


def test_a_validation_does_not_change_the_training(straight, tmp_path):
    never = dict(train_cfg={**LOOPS['epoch'], 'val_begin': 99})
    train(tmp_path / 'never', more=never)
    validated, without = straight('epoch') / 'iter_9.pth', tmp_path / 'never/iter_9.pth'
    same(*(read_checkpoint(f)['state_dict'] for f in (validated, without)))


TWO_PROCESSES = """
import os, shutil, sys
import torch.distributed as dist
sys.path[:0] = {paths!r}
from test_resume import train
dist.init_process_group('gloo')
wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
               find_unused_parameters=True)
settings = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper))
train('straight', more=settings)
if dist.get_rank() == 0:
    os.mkdir('resumed')
    shutil.copy('straight/iter_3.pth', 'resumed')
dist.barrier()
train('resumed', num_workers=1, more=dict(resume=True, **settings))
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """In the middle of the second epoch, of two steps of each process."""
    script = tmp_path / 'two.py'
    here = Path(__file__).parent
    script.write_text(TWO_PROCESSES.format(paths=[str(here), str(here.parent)]))
    done = job(2, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    same_files(tmp_path / 'straight/iter_6.pth', tmp_path / 'resumed/iter_6.pth')


# ---- what differs is said


def said(folder, *args, **kwargs):
    """What a resumed run warns of."""
    resume(*args, folder, more=dict(log_level='WARNING'), **kwargs)
    (log,) = folder.glob('*/*.log')
    return [line for line in log.read_text().splitlines() if 'resuming: ' in line]


def test_other_workers_change_nothing_and_that_is_said(straight, tmp_path):
    (line,) = said(tmp_path / 'a', straight('epoch') / 'iter_4.pth', num_workers=1)
    assert 'workers 0 -> 1: nothing else changes' in line


def test_another_batch_size_goes_on_behind_the_same_samples(straight, tmp_path):
    """4 of 9 steps are one epoch and a batch of 2, which are two batches of 1."""
    source = straight('epoch') / 'iter_4.pth'
    (line,) = said(tmp_path / 'a', source, batch_size=1)
    assert 'batch size 2 -> 1, batches an epoch 3 -> 5: weights, optimizer and counts' in line
    epochs = [read_checkpoint(tmp_path / f'a/iter_{n}.pth')['meta']['epoch'] for n in (6, 7)]
    assert epochs == [1, 2]


def test_the_checkpoint_of_another_runner_begins_its_epoch_anew(straight, tmp_path):
    content = read_checkpoint(straight('epoch') / 'iter_4.pth')
    del content['meta']['data']
    torch.save(content, tmp_path / 'iter_4.pth')
    (line,) = said(tmp_path / 'a', tmp_path / 'iter_4.pth')
    assert 'epoch 2 begins anew' in line


def test_the_seed_is_the_checkpoints(straight, tmp_path):
    expected = straight('epoch')
    for seed in (None, 11):
        folder = tmp_path / str(seed)
        resume(expected / 'iter_4.pth', folder, more=dict(randomness=dict(seed=seed)))
        same_files(expected / 'iter_9.pth', folder / 'iter_9.pth')


# ---- validations, the best checkpoint, removals

BEST = dict(by_epoch=True, max_keep_ckpts=2, save_best='toy/error', rule='less')


def killed(*args, **kwargs):
    raise Killed


def kill_at_operation(monkeypatch, count):
    """Let the n-th renaming or removal of a file not happen, nor anything after it."""
    left = count

    def killing(operation):
        def counted(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return operation(*args, **kwargs)

        return counted

    for name in ('replace', 'remove'):
        monkeypatch.setattr(os, name, killing(getattr(os, name)))


def checkpoints(folder):
    return sorted(file.name for file in Path(folder).glob('*.pth'))


def test_the_best_checkpoint_is_right_and_nothing_is_left_wherever_the_run_is_killed(tmp_path):
    expected = tmp_path / 'straight'
    train(expected, checkpoint=BEST)
    names = checkpoints(expected)
    assert len(names) == 3
    for count in range(1, 99):
        folder = tmp_path / str(count)
        with pytest.MonkeyPatch.context() as patch:
            kill_at_operation(patch, count)
            try:
                train(folder, checkpoint=BEST)
            except Killed:
                pass
            else:
                break
        train(folder, checkpoint=BEST, more=dict(resume=True))
        assert checkpoints(folder) == names, count
        for name in names:
            same_files(expected / name, folder / name)
        best = read_checkpoint(folder / 'epoch_3.pth')['message_hub']['runtime_info']['best_ckpt']
        assert best == str(folder / names[0])
    assert count > 10


@pytest.mark.parametrize('loop', LOOPS)
def test_killed_in_a_validation_and_again_behind_the_one_that_was_due(tmp_path, loop):
    """The checkpoint that is written behind that validation is of an epoch that has not begun."""
    every = BEST if loop == 'epoch' else {**BEST, 'by_epoch': False, 'interval': 3}
    expected, folder = tmp_path / 'straight', tmp_path / 'run'
    train(expected, loop, checkpoint=every)
    for moment in ('before_val', 'before_train_iter'):
        hooks = dict(custom_hooks=[KillAt(moment, 1)], resume=True)
        with pytest.raises(Killed):
            train(folder, loop, checkpoint=every, more=hooks)
    train(folder, loop, checkpoint=every, more=dict(resume=True))
    assert checkpoints(folder) == checkpoints(expected)
    for name in checkpoints(expected):
        same_files(expected / name, folder / name)


def test_only_what_the_run_wrote_is_removed(tmp_path, monkeypatch):
    """Killed before epoch_1.pth was removed; then the user put another file in its place."""
    folder = tmp_path / 'run'
    two = dict(by_epoch=True, max_keep_ckpts=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'remove', killed)
        with pytest.raises(Killed):
            train(folder, checkpoint=two)
    assert checkpoints(folder) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    shutil.copy2(folder / 'epoch_1.pth', tmp_path / 'kept.pth')
    (folder / 'epoch_1.pth').unlink()
    shutil.copy2(tmp_path / 'kept.pth', folder / 'epoch_1.pth')
    train(folder, checkpoint=two, more=dict(resume=True))
    assert 'epoch_1.pth' in checkpoints(folder)


def test_no_metric_is_reported_that_was_not_measured(straight, tmp_path):
    pytest.importorskip('mmcv')
    from paca_mm.engine.launch import _last_metrics

    last = [KillAt('before_val', 3)]
    with pytest.raises(Killed):
        train(tmp_path / 'killed', more=dict(custom_hooks=last))
    resumed = train(tmp_path / 'killed', more=dict(resume=True))
    expected = read_checkpoint(straight('epoch') / 'iter_9.pth')['message_hub']['log_scalars']
    assert _last_metrics(resumed) == {'toy/error': expected['val/toy/error'].current()}

    unvalidated = dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    trained = resume(straight('epoch') / 'iter_6.pth', tmp_path / 'without', more=unvalidated)
    assert 'val/toy/error' in trained.message_hub.log_scalars
    assert _last_metrics(trained) == {}


# ---- saved because the run has to stop


def saving(runner):
    save_now(runner, 'a test')


def saving_in_validation(runner):
    save_now(runner, 'a test', validating=True)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize(
    ('method', 'count', 'action', 'name'),
    [
        ('after_train_iter', 5, saving, 'iter_5.pth'),
        ('after_val_iter', 5, saving_in_validation, 'iter_6.pth'),  # of the second validation
    ],
)
def test_saved_at_once_and_gone_with_the_next_regular_one(
    tmp_path, loop, method, count, action, name
):
    """With averaged weights, which are in the model's place while it is validated."""
    rare = dict(interval=2 if loop == 'epoch' else 7, by_epoch=loop == 'epoch')
    average = dict(type='EMAHook', momentum=0.3)
    train(tmp_path / 'straight', loop, more=dict(custom_hooks=[average]), checkpoint=rare)
    folder = tmp_path / 'stopped'
    hooks = [average, KillAt(method, count, action)]
    with pytest.raises(Killed):
        train(folder, loop, more=dict(custom_hooks=hooks), checkpoint=rare)
    standing = 'epoch_2.pth' if loop == 'epoch' and name == 'iter_6.pth' else name
    assert (folder / 'last_checkpoint').read_text() == str(folder / standing)
    train(folder, loop, more=dict(custom_hooks=[average], resume=True), checkpoint=rare)
    assert checkpoints(folder) == checkpoints(tmp_path / 'straight')
    last = checkpoints(folder)[-1]
    same_files(tmp_path / 'straight' / last, folder / last)


# ---- the three tasks, by the command line


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'host', 'loop', 'workers'),
    [
        ('det', 'mmdet', 'epoch', 2),
        ('seg', 'mmseg', 'iteration', 1),
        ('cls', 'mmpretrain', 'epoch', 2),
    ],
)
def test_the_tasks(tmp_path, monkeypatch, task, host, loop, workers):
    """Two epochs of two steps, or four iterations, resumed behind the third or the first."""
    pytest.importorskip(host)
    monkeypatch.chdir(tmp_path)
    tiny.write_shapes(tmp_path)
    length = (
        dict(max_epochs=2, val_interval=1) if loop == 'epoch' else dict(max_iters=4, val_interval=4)
    )
    rest = (
        f'train_cfg = {length}\n'
        'default_hooks = dict(checkpoint=dict(interval=1, by_epoch=False, max_keep_ckpts=-1))\n'
        'randomness = dict(seed=3)\n'
    )
    tiny.write_config(tmp_path / 'tiny.py', task, 'drop_path_rate=0.2,', rest)
    assert run('train', 'tiny.py', '--work-dir', 'straight') == 0
    Path('cut').mkdir()
    shutil.copy('straight/iter_3.pth' if loop == 'epoch' else 'straight/iter_1.pth', 'cut')
    options = f'train_dataloader.num_workers={workers}', 'train_dataloader.persistent_workers=True'
    assert run('train', 'tiny.py', '--work-dir', 'cut', '--resume', '--cfg-options', *options) == 0
    same_files('straight/iter_4.pth', 'cut/iter_4.pth')


@pytest.mark.parametrize('loop', LOOPS)
def test_no_worker_outlives_a_run(tmp_path, loop):
    """Persistent ones neither, and the runner can be used on."""
    runner = train(tmp_path, loop, num_workers=2, persistent_workers=True)
    assert multiprocessing.active_children() == []
    before = runner.message_hub.get_scalar('val/toy/error').current()
    assert runner.val()['toy/error'] == before
    runner.train_loop._max_iters += 1
    runner.train_loop._max_epochs += loop == 'epoch'
    runner.train_loop.run()
    assert runner.iter == (12 if loop == 'epoch' else 10)
