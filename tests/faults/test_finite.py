"""One NaN in a training: the step is left out as if it had not been, or the training stops and says why."""

import math

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.finite import not_finite
from paca_mm.engine.finite import FiniteHook
from paca_mm.errors import UserError


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Without mmengine's report of the environment, which takes longer than a training here."""
    monkeypatch.setattr(Runner, '_log_env', lambda self, env: None)


class Toy(BaseModel):
    """A model with a BatchNorm; what goes wrong with a sample stands in the sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, data_samples, mode='loss'):
        fault = next((s.fault for s in data_samples if s.fault), '')
        out = self.head(self.body(inputs))
        if fault == 'loss nan':
            out = out * math.nan
        loss = out.square().mean()
        if fault == 'loss inf':
            loss = loss + math.inf
        if fault == 'gradient nan':  # 0 * inf
            loss = loss + (self.head.weight * 0).sum().abs().sqrt()
        if fault == 'gradient inf':
            loss = loss + (self.head.weight - self.head.weight.detach()).square().sum().sqrt()
        return {'loss': loss, 'acc': torch.tensor(0.5)}


def samples(faults, batch=2):
    """Batches of a dataset, ``faults`` by the number of the batch."""
    numbers = torch.Generator().manual_seed(1)
    found = []
    for i in range(12):
        fault = faults.get(i // batch, '')
        image = torch.randn(4, generator=numbers)
        if fault == 'image' and i % batch == 0:
            image[2] = math.nan
        sample = BaseDataElement(metainfo=dict(img_path=f'{i}.png', fault=fault))
        found.append(dict(inputs=image, data_samples=sample))
    return found


def collate(found):
    return {
        'inputs': torch.stack([s['inputs'] for s in found]),
        'data_samples': [s['data_samples'] for s in found],
    }


def train(folder, faults=None, leave_out=(), hook=None, wrapper=None, hooks=(), runs=6, **more):
    """Train a toy on six batches of two; returns the runner."""
    data = samples(faults or {})
    data = [s for i, s in enumerate(data) if i // 2 not in leave_out]
    finite = hook if isinstance(hook, FiniteHook) else FiniteHook(**(hook or {}))
    runner = Runner(
        Toy(),
        work_dir=str(folder),
        train_dataloader=DataLoader(data, batch_size=2, collate_fn=collate),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=runs - len(leave_out)),
        optim_wrapper=wrapper or dict(optimizer=dict(type='AdamW', lr=0.01)),
        default_hooks=dict(
            finite=finite,
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=2),
        ),
        custom_hooks=list(hooks),
        log_processor=dict(by_epoch=False),
        default_scope='mmengine',
        experiment_name=folder.name,
        **more,
    )
    runner.train()
    return runner


def state_of(runner):
    """All that a step changes: weights, buffers, the optimizer's state, averages."""
    optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
    state = {f'model.{k}': v for k, v in runner.model.state_dict().items()}
    for i, moments in optimizer.items():
        state |= {f'optimizer.{i}.{k}': torch.as_tensor(v) for k, v in moments.items() if v is not None}
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            state |= {f'ema.{k}': v for k, v in hook.ema_model.state_dict().items()}
    return state


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0, msg=key)


FAULTS = {
    'image': 'the image itself: 6.png',
    'loss nan': 'the loss: loss',
    'loss inf': 'the loss: loss',
    'gradient nan': 'the gradient of head.weight',
    'gradient inf': 'the gradient of head.weight',
}
WRAPPERS = {
    'adamw': dict(optimizer=dict(type='AdamW', lr=0.01)),
    'momentum': dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9), clip_grad=dict(max_norm=1.0)),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('fault', FAULTS)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(tmp_path, fault, wrapper, capfd):
    """Of weights, BatchNorm's statistics, the optimizer and averaged weights, to the bit."""
    options = dict(wrapper=WRAPPERS[wrapper], hooks=[dict(type='EMAHook')])
    runner = train(tmp_path / 'a', {3: fault}, **options)
    said = capfd.readouterr()
    said = said.out + said.err
    assert 'iteration 4: the loss or the norm of the gradient is not finite' in said
    assert f'first to go wrong: {FAULTS[fault]}' in said
    assert '6.png, 7.png' in said
    assert 'it is left out (1 in a row, at most 5; 1 in all, at most 100)' in said
    assert 'nan' not in said.split('it is left out')[1]  # no mean of losses is
    expected = train(tmp_path / 'b', leave_out=[3], **options)
    assert_same(state_of(runner), state_of(expected))
    assert not not_finite(state_of(runner))
