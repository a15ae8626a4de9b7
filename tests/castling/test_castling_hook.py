"""CastlingHook: the branch fades out by its schedule, is gone at the end, and files know it."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from torch.utils.data import Dataset

from helpers import golden
from helpers.tool import forget_runs
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.runner import SafeRunner
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention
from paca_mm.models.castling.attention import castling_attentions

EPOCHS, BATCHES, BATCH = 4, 5, 2


class Data(Dataset):
    """Random tokens and targets, the same in every run."""

    def __len__(self):
        return BATCHES * BATCH

    def __getitem__(self, index):
        rng = torch.Generator().manual_seed(index)
        return torch.randn(6, 16, generator=rng), torch.randn(16, generator=rng)


class Model(BaseModel):
    """Two attentions and a dropout, whose random numbers a resumed run must repeat."""

    def __init__(self, **castling):
        super().__init__()
        self.layers = nn.ModuleList(CastlingAttention(16, 2, **castling) for _ in range(2))
        self.drop = nn.Dropout(0.2)
        self.seen = []

    def forward(self, tokens, targets, mode='tensor'):
        attention = self.layers[0]
        self.seen.append((attention.softmax_branch, attention.threshold, attention.branch_factor))
        for layer in self.layers:
            tokens = tokens + self.drop(layer(tokens))
        out = tokens.mean(1)
        return dict(loss=F.mse_loss(out, targets)) if mode == 'loss' else [out]


def runner(folder, hook, model=None, epochs=EPOCHS, cls=SafeRunner, **kwargs):
    forget_runs()
    loader = dict(
        dataset=Data(),
        batch_size=BATCH,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    hooks = [dict(type='paca_mm.CastlingHook', **hook)] if hook is not None else []
    return cls(
        model=model or Model(),
        work_dir=str(folder),
        train_dataloader=loader,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        train_cfg=kwargs.pop('train_cfg', dict(by_epoch=True, max_epochs=epochs)),
        default_hooks=dict(checkpoint=dict(type='paca_mm.SafeCheckpointHook', interval=1)),
        custom_hooks=hooks,
        randomness=dict(seed=7),
        log_level='WARNING',
        experiment_name=str(folder).replace('/', '_'),
        **kwargs,
    )


def fresh_model(**castling):
    torch.manual_seed(1)
    return golden.fill(Model(**castling))


def trained(folder, hook, **kwargs):
    made = runner(folder, hook, fresh_model(), **kwargs)
    made.train()
    return made


# ---- the schedule


@pytest.mark.parametrize('by', ['threshold', 'factor'])
@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_every_iteration_has_the_branch_that_the_schedule_says(tmp_path, by, schedule):
    """From epoch 1 to epoch 3 of 4, of 5 iterations each: 5 to 15."""
    made = trained(tmp_path, dict(by=by, schedule=schedule, begin=1, end=3))
    assert len(made.model.seen) == 20
    for done, (runs, threshold, factor) in enumerate(made.model.seen):
        part = min(max(done - 5, 0) / 10, 1)
        faded = part if schedule == 'linear' else (1 - math.cos(math.pi * part)) / 2
        assert runs == (done < 15)
        assert threshold == pytest.approx(0.02 + 0.98 * faded if by == 'threshold' else 0.02)
        assert factor == pytest.approx(1 - faded if by == 'factor' else 1)
    assert all(a.branch_is_silent() for a in castling_attentions(made.model))


@pytest.mark.parametrize(
    ('hook', 'span'),
    [
        (dict(), (0, 16)),
        (dict(begin=0.25, end=0.5), (5, 10)),
        (dict(begin=0, end=4), (0, 20)),
        (dict(begin=0.5, end=1.0), (10, 20)),
        (dict(begin=3, end=7, by_epoch=False), (3, 7)),
        (dict(begin=1, end=0.5), (5, 10)),
    ],
)
def test_epochs_iterations_and_parts_of_the_run(tmp_path, hook, span):
    made = trained(tmp_path, dict(schedule='linear', **hook))
    seen = [*made.model.seen, (made.model.layers[0].softmax_branch, 1.0, 1.0)]
    thresholds = [threshold for _, threshold, _ in seen]
    assert [runs for runs, _, _ in seen] == [i < span[1] for i in range(21)]
    assert thresholds[: span[0] + 1] == [0.02] * (span[0] + 1)
    assert thresholds[span[0] + 1] == pytest.approx(0.02 + 0.98 / (span[1] - span[0]))


@pytest.mark.slow
def test_a_run_that_counts_iterations(tmp_path):
    cfg = dict(by_epoch=False, max_iters=12)
    made = trained(tmp_path, dict(begin=2, end=10, by_epoch=False), train_cfg=cfg)
    assert [runs for runs, _, _ in made.model.seen] == [i < 10 for i in range(12)]
    with pytest.raises(UserError, match=r'5 counts epochs, but this run counts iterations'):
        trained(tmp_path / 'b', dict(end=5), train_cfg=cfg)


def test_the_branch_that_was_removed_was_exactly_zero(tmp_path):
    """The last model of the schedule, with the branch put back, gives the same to the last bit."""
    for by in ('threshold', 'factor'):
        model = trained(tmp_path / by, dict(by=by, end=1.0)).model.eval()
        with_branch = copy.deepcopy(model)
        for attention in castling_attentions(with_branch):
            assert not attention.softmax_branch
            attention.softmax_branch = True
        tokens = torch.randn(3, 6, 16)
        a, b = (m(tokens, None)[0] for m in (model, with_branch))
        assert torch.equal(a, b)


# ---- resuming and evaluating


@pytest.mark.parametrize('by', ['threshold', 'factor'])
def test_a_run_resumed_within_the_schedule_ends_bit_for_bit_alike(tmp_path, by):
    hook = dict(by=by, begin=2, end=17, by_epoch=False)
    straight = trained(tmp_path / 'straight', hook)
    first = tmp_path / 'straight/epoch_2.pth'
    resumed = runner(tmp_path / 'cut', hook, fresh_model(), load_from=str(first), resume=True)
    resumed.train()
    assert resumed.model.seen == straight.model.seen[10:]
    for key, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    assert not resumed.model.layers[0].softmax_branch


def test_a_run_resumed_behind_the_schedule_stays_without_the_branch(tmp_path):
    straight = trained(tmp_path / 'straight', dict(end=2))
    first = str(tmp_path / 'straight/epoch_3.pth')
    resumed = runner(tmp_path / 'cut', dict(end=2), fresh_model(), load_from=first, resume=True)
    resumed.train()
    assert resumed.model.seen == [(False, 1.0, 1.0)] * 5
    for key, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


@pytest.mark.parametrize('stock', [False, True], ids=['SafeRunner', 'Runner'])
@pytest.mark.parametrize('with_hook', [True, False])
def test_checkpoints_are_evaluated_as_they_were_trained(tmp_path, with_hook, stock):
    """The config builds the branch with threshold 0.02; the file knows better, hook or not."""
    from mmengine.runner import Runner

    hook = dict(schedule='linear', end=3)
    made = trained(tmp_path / 'run', hook)
    expected = {1: (True, pytest.approx(0.02 + 0.98 / 3), 1.0), 4: (False, 1.0, 1.0)}
    for epoch, branch in expected.items():
        test = runner(
            tmp_path / f'test{epoch}',
            hook if with_hook else None,
            Model(),
            cls=Runner if stock else SafeRunner,
            load_from=str(tmp_path / f'run/epoch_{epoch}.pth'),
        )
        test.load_or_resume()
        attention = test.model.layers[1]
        found = (attention.softmax_branch, attention.threshold, attention.branch_factor)
        assert found == branch
    tokens = torch.randn(3, 6, 16)
    a, b = (m.eval()(tokens, None)[0] for m in (test.model, made.model))
    assert torch.equal(a, b)


def test_checkpoints_of_both_forms_have_the_same_keys(tmp_path):
    trained(tmp_path, dict(end=3))
    first, last = (read_checkpoint(tmp_path / f'epoch_{i}.pth')['state_dict'] for i in (1, 4))
    assert first.keys() == last.keys() == Model().state_dict().keys()
    official = {k for k in first if k.startswith('layers.0.')}
    assert official == {f'layers.0.{k}' for k in CastlingAttention(16, 2).state_dict()}


def test_a_new_run_from_a_finished_one_begins_its_schedule_again(tmp_path):
    trained(tmp_path / 'first', dict(end=2))
    last = str(tmp_path / 'first/epoch_4.pth')
    second = runner(tmp_path / 'second', dict(end=2), Model(), load_from=last)
    second.train()
    assert second.model.seen[0] == (True, 0.02, 1.0)
    third = runner(tmp_path / 'third', None, Model(), load_from=last)
    third.train()
    assert third.model.seen == [(False, 1.0, 1.0)] * 20


def test_averaged_weights_are_saved_with_the_state_of_the_branch(tmp_path):
    forget_runs()
    made = runner(tmp_path / 'run', dict(end=2), fresh_model(), epochs=3)
    made.register_hook(dict(type='EMAHook', momentum=0.1), priority='ABOVE_NORMAL')
    made.train()
    content = read_checkpoint(tmp_path / 'run/epoch_3.pth')
    target = Model()
    target.load_state_dict(content['state_dict'])
    assert not any(a.softmax_branch for a in castling_attentions(target))
    assert not torch.equal(
        content['state_dict']['layers.0.proj.weight'], made.model.layers[0].proj.weight
    )


# ---- messages


class NoAttention(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, tokens, targets, mode='tensor'):
        return dict(loss=self.layer(tokens).sum())


@pytest.mark.parametrize(
    ('model', 'hook', 'message'),
    [
        (NoAttention, dict(), r'the model \(NoAttention\) has no CastlingAttention'),
        (lambda: Model(softmax_branch=False), dict(), r'none of the 2 .* softmax_branch=True'),
        (
            Model,
            dict(end=5),
            r'ends at end=5 \(iteration 25\), but the run has 4 epochs and 20 iter',
        ),
        (Model, dict(end=21, by_epoch=False), r'end=21 \(iteration 21\), but the run has'),
        (Model, dict(begin=3, end=0.5), r'begin=3 \(iteration 15\) must be before end=0.5'),
    ],
)
def test_a_run_that_cannot_be_is_explained_before_it_trains(tmp_path, model, hook, message):
    made = runner(tmp_path, hook, model())
    with pytest.raises(UserError, match=message):
        made.train()
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (dict(by='mask'), r"by='mask' is unknown; choose 'threshold' or 'factor'"),
        (dict(schedule='step'), r"schedule='step' is unknown; choose 'linear' or 'cosine'"),
        (dict(end=240.0), r'end=240.0 is a float.* for epochs write end=240'),
        (dict(begin=-1), r'begin=-1 must not be below 0'),
    ],
)
def test_wrong_arguments_are_explained(hook, message):
    with pytest.raises(UserError, match=message):
        HOOKS.build(dict(type='paca_mm.CastlingHook', **hook))
