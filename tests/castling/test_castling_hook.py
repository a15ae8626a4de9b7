"""The softmax branch fades out: schedules, the end, checkpoints, resuming, messages."""

import math

import pytest
import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from helpers.tool import forget_runs
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.runner import SafeRunner
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention
from paca_mm.models.castling.hook import CastlingHook

#: Iterations of an epoch, epochs of a run.
ITERATIONS, EPOCHS = 2, 5


class Net(BaseModel):
    """Two attentions with dropout between, so that a step reads random numbers."""

    def __init__(self, **castling):
        super().__init__()
        self.layers = nn.Sequential(
            CastlingAttention(12, 2, **castling),
            nn.Dropout(0.1),
            CastlingAttention(12, 2, **castling),
        )

    def forward(self, tokens, mode='tensor'):
        out = self.layers(tokens)
        return dict(loss=(out - tokens).square().mean()) if mode == 'loss' else out


class Spy(Hook):
    """Notes the branches before every training iteration."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        branches = {
            (a.softmax_branch, a.threshold, a.branch_factor)
            for a in runner.model.modules()
            if isinstance(a, CastlingAttention)
        }
        (self.seen[runner.iter],) = branches


def dataset():
    numbers = torch.Generator().manual_seed(0)
    return [dict(tokens=torch.randn(7, 12, generator=numbers)) for _ in range(4 * ITERATIONS)]


def run(folder, *hooks, model=None, cls=SafeRunner, train_cfg=None, **kwargs):
    """Train; returns the runner and what was seen."""
    forget_runs()
    torch.manual_seed(0)
    spy = Spy()
    runner = cls(
        model=model or Net(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=dataset(), batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='paca_mm.SafeCheckpointHook', interval=1),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[spy, *hooks],
        randomness=dict(seed=1),
        experiment_name='castling',
        **kwargs,
    )  # fmt: skip
    runner.train()
    return runner, spy.seen


def hook(**kwargs):
    return dict(type='paca_mm.CastlingHook', **kwargs)


def inference(model):
    with torch.no_grad():
        return model.eval()(dataset()[0]['tokens'][None])


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('by', ['threshold', 'factor'])
def test_the_schedule_iteration_by_iteration(by, schedule, tmp_path):
    """From the second to the end of the fourth of five epochs; then the branch is removed."""
    runner, seen = run(tmp_path, hook(by=by, schedule=schedule, begin=1, end=4))
    assert [*seen] == list(range(ITERATIONS * EPOCHS))
    for done, (runs, threshold, factor) in seen.items():
        part = min(max((done - 2) / 6, 0.0), 1.0)
        if schedule == 'cosine':
            part = 0.5 - 0.5 * math.cos(math.pi * part)
        assert runs == (done < 8)
        assert threshold == pytest.approx(0.02 + 0.98 * part if by == 'threshold' else 0.02)
        assert factor == pytest.approx(1.0 if by == 'threshold' else 1 - part)
    # What was removed added exactly nothing.
    after = inference(runner.model)
    for attention in runner.model.layers[::2]:
        assert not attention.softmax_branch
        assert attention.branch_is_silent()
        attention.softmax_branch = True
        assert attention.branch_is_silent()
    assert torch.equal(inference(runner.model), after)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'after 8 iterations the softmax branches of 2 attentions are exactly zero' in log
    assert f'branch_{by}: ' in log


@pytest.mark.parametrize('cls', [SafeRunner, Runner])
def test_a_checkpoint_is_evaluated_as_it_was_trained(cls, tmp_path):
    """The config builds the branch with its first threshold; the file knows better."""
    runner, seen = run(tmp_path, hook(begin=1, end=4))
    trained = inference(runner.model)
    for epoch in (1, 3, 5):
        fresh = Net()
        forget_runs()
        other = cls(model=fresh, work_dir=str(tmp_path / 'test'), experiment_name=f'test{epoch}')
        other.load_checkpoint(str(tmp_path / f'epoch_{epoch}.pth'))
        found = {(a.softmax_branch, a.threshold, a.branch_factor) for a in fresh.layers[::2]}
        assert found == {seen[ITERATIONS * epoch] if epoch < EPOCHS else (False, 1.0, 1.0)}
    assert torch.equal(inference(fresh), trained)
    for attention in fresh.layers[::2]:  # what the config alone would have evaluated
        attention.softmax_branch, attention.threshold = True, 0.02
    assert not torch.equal(inference(fresh), trained)
    keys = {*read_checkpoint(tmp_path / 'epoch_1.pth')['state_dict']}
    assert (
        keys == {*read_checkpoint(tmp_path / 'epoch_5.pth')['state_dict']} == {*Net().state_dict()}
    )


@pytest.mark.parametrize('epoch', [2, 4])
@pytest.mark.parametrize('by', ['threshold', 'factor'])
def test_a_resumed_run_is_the_uninterrupted_one(by, epoch, tmp_path):
    """In the middle of the schedule, and behind its end."""
    cfg = hook(by=by, begin=0.2, end=0.8)
    straight, expected = run(tmp_path / 'straight', cfg)
    file = str(tmp_path / f'straight/epoch_{epoch}.pth')
    resumed, seen = run(tmp_path / 'resumed', cfg, load_from=file, resume=True)
    assert seen == {done: expected[done] for done in expected if done >= epoch * ITERATIONS}
    for key, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def test_averaged_weights_are_evaluated_without_the_branch(tmp_path):
    runner, _ = run(tmp_path, hook(end=4), dict(type='EMAHook', momentum=0.3))
    fresh = Net()
    forget_runs()
    other = SafeRunner(model=fresh, work_dir=str(tmp_path / 'test'), experiment_name='test')
    other.load_checkpoint(str(tmp_path / 'epoch_5.pth'))
    assert not any(a.softmax_branch for a in fresh.layers[::2])
    key = 'layers.0.qkv.weight'
    assert not torch.equal(fresh.state_dict()[key], runner.model.state_dict()[key])


def test_a_run_of_iterations(tmp_path):
    loop = dict(by_epoch=False, max_iters=6)
    _, seen = run(tmp_path, hook(begin=1, end=3, by_epoch=False, schedule='linear'), train_cfg=loop)
    assert [runs for runs, _, _ in seen.values()] == [True] * 3 + [False] * 3
    assert [t for _, t, _ in seen.values()] == pytest.approx([0.02, 0.02, 0.51, 1, 1, 1])
    with pytest.raises(UserError, match=r'counts epochs, but this run counts iterations'):
        run(tmp_path / 'b', hook(begin=0, end=3), train_cfg=loop)


def test_branches_that_were_not_built_are_left_alone(tmp_path):
    model = Net()
    model.layers[2] = CastlingAttention(12, 2, softmax_branch=False)
    loop = dict(by_epoch=False, max_iters=1)
    runner, _ = run(tmp_path, hook(), model=Net(softmax_branch=True), train_cfg=loop)
    assert not runner.model.layers[0].softmax_branch
    castling = CastlingHook(end=0.9)
    runner.model = model
    castling.before_train(runner)
    assert [a.softmax_branch for a in model.layers[::2]] == [True, False]


class Plain(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)


@pytest.mark.parametrize(
    ('model', 'arguments', 'message'),
    [
        (
            Plain,
            {},
            r'the model \(Plain\) has no CastlingAttention.*\n  to fix it: a model that has',
        ),
        (lambda: Net(softmax_branch=False), {}, r'none of the 2 .* built with softmax_branch=True'),
        (Net, dict(end=6), r'ends at end=6 \(iteration 12\), but the run has 5 epochs and 10 iter'),
        (Net, dict(begin=3, end=3), r'begin=3 \(iteration 6\) must be before end=3'),
    ],
)
def test_what_does_not_fit_the_run_is_one_message(model, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tmp_path, hook(**arguments), model=model())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(by='mask'), r"by='mask' is unknown; choose 'threshold' or 'factor'"),
        (dict(schedule='step'), r"schedule='step' is unknown; choose 'linear' or 'cosine'"),
        (dict(end=240.0), r'end=240.0 is a float, .*; for epochs write end=240'),
        (dict(begin=-1), r'begin=-1 must not be below 0'),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        CastlingHook(**arguments)
