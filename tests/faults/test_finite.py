"""A NaN in a training: the step is as if it had not been, or the training stops and says why."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATASETS, HOOKS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from helpers import own_data
from helpers.tiny import write_config, write_shapes
from helpers.tool import job, run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.finite import not_finite
from paca_mm.engine import waiting_step
from paca_mm.engine.config import load_config
from paca_mm.engine.finite import FiniteHook
from paca_mm.engine.waiting_step import WaitingStep
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


FAULTS = {
    'image': 'the image itself: 6.png',
    'loss nan': 'the loss: loss',
    'loss inf': 'the loss: loss',
    'gradient nan': 'the gradient of head.weight',
    'gradient inf': 'the gradient of head.weight',
}
WRAPPERS = {
    'adamw': dict(optimizer=dict(type='AdamW', lr=0.01)),
    'momentum': dict(
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9), clip_grad=dict(max_norm=1.0)
    ),
}


NO_ARGUMENTS = {}


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


def train(folder, faults=None, leave_out=(), hook=NO_ARGUMENTS, wrapper=None, hooks=(), runs=6,
          checkpoint='CheckpointHook', **more):  # fmt: skip
    """Train a toy on six batches of two, guarded unless ``hook`` is None; returns the runner."""
    data = samples(faults or {})
    data = [s for i, s in enumerate(data) if i // 2 not in leave_out]
    guard = {} if hook is None else dict(finite=dict(type='paca_mm.FiniteHook', **hook))
    model = Toy()
    runner = Runner(
        model,
        work_dir=str(folder),
        train_dataloader=DataLoader(data, batch_size=2, collate_fn=collate),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=runs - len(leave_out)),
        optim_wrapper=wrapper(model) if callable(wrapper) else wrapper or WRAPPERS['adamw'],
        default_hooks=dict(
            **guard,
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(interval=2, by_epoch=False, max_keep_ckpts=2, type=checkpoint),
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
        state |= {
            f'optimizer.{i}.{k}': torch.as_tensor(v) for k, v in moments.items() if v is not None
        }
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            state |= {f'ema.{k}': v for k, v in hook.ema_model.state_dict().items()}
    return state


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0, msg=key)


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


@pytest.mark.parametrize(
    ('clip', 'norm_is_clippings'),
    [
        (dict(max_norm=0.01), True),
        (dict(max_norm=0.01, norm_type=1), True),
        (dict(max_norm=0.01, error_if_nonfinite=True), False),  # would raise before the verdict
        (dict(type='value', clip_value=0.001), False),
        (None, False),
    ],
    ids=['norm', 'norm_1', 'raises', 'value', 'none'],
)
def test_a_guarded_step_is_that_of_mmengine(tmp_path, monkeypatch, clip, norm_is_clippings):
    """Clipping finds the norm that is looked at, once; weights and the logged norm are mmengine's."""
    looked = []
    own = waiting_step.WaitingStep._norms
    monkeypatch.setattr(
        waiting_step.WaitingStep, '_norms', lambda self: looked.append(1) or own(self)
    )
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=clip)
    guarded, plain = (
        train(tmp_path / name, hook=hook, wrapper=wrapper)
        for name, hook in (('guarded', {}), ('plain', None))
    )
    assert len(looked) == (0 if norm_is_clippings else 6)
    assert_same(state_of(guarded), state_of(plain))
    if clip and 'max_norm' in clip:
        one, other = (r.message_hub.get_scalar('train/grad_norm').data for r in (guarded, plain))
        assert one[0].tolist() == other[0].tolist()
        assert len(one[0]) == 6


@pytest.mark.parametrize('place', ['dense', 'sparse'])
def test_gradients_of_many_kinds_are_looked_at(place):
    weights = [
        nn.Embedding(3, 2, sparse=True).weight,
        nn.Parameter(torch.ones(2, dtype=torch.float64)),
        nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        nn.Parameter(torch.ones(1)),  # without a gradient
    ]
    wrapper = WaitingStep.install(OptimWrapper(torch.optim.SGD(weights, lr=0.1)))
    for factor, is_finite in ((1.0, True), (math.nan, False), (math.inf, False)):
        factors = (1.0, factor) if place == 'dense' else (factor, 1.0)
        looked_up = nn.functional.embedding(torch.tensor([1]), weights[0], sparse=True)
        (looked_up.sum() * factors[0]).backward()
        (weights[1].sum() * factors[1] + weights[2].sum()).backward()
        wrapper.step()
        assert math.isfinite(wrapper.verdict) == is_finite
        wrapper.leave_out()
        wrapper.zero_grad()


def test_an_accumulated_step_is_left_out_as_a_whole(tmp_path, capfd):
    """The batch of the two that went wrong is named, and it alone."""
    wrapper = dict(
        type='OptimWrapper',
        accumulative_counts=2,
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
    )
    runner = train(tmp_path / 'a', {2: 'loss nan'}, wrapper=wrapper)
    said = capfd.readouterr().out
    assert 'images: 4.png, 5.png\n' in said
    expected = train(tmp_path / 'b', leave_out=[2, 3], wrapper=wrapper)
    assert_same(state_of(runner), state_of(expected))


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (dict(max_in_a_row=2), '3 steps in a row are not finite'),
        (dict(max_in_all=1), '2 steps are not finite'),
        (dict(policy='stop'), "a step is not finite, and policy='stop'"),
    ],
)
def test_a_training_that_goes_on_being_wrong_stops(tmp_path, hook, message):
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path, {2: 'loss nan', 3: 'loss inf', 4: 'gradient nan'}, hook=hook)
    assert 'most often the learning rate is too high (0.01 now)' in str(error.value)
    assert 'the last checkpoint is finite: --resume goes on from it.' in str(error.value)
    assert not not_finite(read_checkpoint(tmp_path / 'iter_2.pth')['state_dict'])


@pytest.mark.parametrize('rate', [1e12, 1e38])
def test_a_learning_rate_that_is_much_too_high_is_named(tmp_path, rate):
    """It goes wrong in the step after, or in the weights at once."""
    wrapper = dict(optimizer=dict(type='SGD', lr=rate))
    with pytest.raises(UserError, match='learning rate is too high') as error:
        train(tmp_path, runs=6, wrapper=wrapper, hook=dict(max_in_a_row=2))
    assert f'({rate:g} now)' in str(error.value)
    for file in tmp_path.glob('*.pth'):
        assert not not_finite(read_checkpoint(file)['state_dict'])


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """Somebody's own hook ruins them; the two checkpoints that there are stay."""

    class Ruins(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 5:
                with torch.no_grad():
                    runner.model.head.weight[0, 0] = math.inf

    with pytest.raises(UserError, match=r'iteration 6 the weights themselves .*head\.weight'):
        train(tmp_path, hooks=[Ruins()], checkpoint='paca_mm.SafeCheckpointHook')
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['iter_2.pth', 'iter_4.pth']


def test_rolling_back_goes_to_the_last_checkpoint(tmp_path, capfd):
    """With its weights, optimizer and averages; the learning rate stays that of now."""
    options = dict(
        hooks=[dict(type='EMAHook')],
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6)],
    )
    train(tmp_path / 'a', {4: 'loss nan'}, hook=dict(policy='rollback'), runs=5, **options)
    said = capfd.readouterr().out
    assert 'it is left out, and the weights are again those of' in said
    assert 'a/iter_4.pth (1 in a row' in said
    back, before = (read_checkpoint(tmp_path / f'a/iter_{i}.pth') for i in (5, 4))
    for part in ('state_dict', 'ema_state_dict'):
        assert_same(back[part], before[part])
    moments = (saved['optimizer']['state'] for saved in (back, before))
    for one, other in zip(*(m.values() for m in moments), strict=True):
        assert_same(one, other)
    rates = [saved['optimizer']['param_groups'][0]['lr'] for saved in (back, before)]
    assert rates[0] > rates[1]


def test_rolling_back_needs_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match='no checkpoint yet to go back to'):
        train(tmp_path, {0: 'loss nan'}, hook=dict(policy='rollback'))


def test_a_policy_that_there_is_not():
    with pytest.raises(UserError, match=r"policy='skipp'; did you mean skip\?"):
        FiniteHook(policy='skipp')


class OnCpu(AmpOptimWrapper):
    """mmengine's, which wants a GPU."""

    def __init__(self, optimizer, scale):
        OptimWrapper.__init__(self, optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale, growth_interval=2)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


def mixed(scale):
    return lambda model: OnCpu(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), scale)


needs_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='torch scales on a CPU since 2.3'
)


@needs_scaler
def test_an_overflow_of_mixed_precision_is_no_fault(tmp_path, capfd):
    """The scaler's first steps overflow: that does not count. A loss that is NaN does, and the scaler
    does not hear of it.
    """
    runner = train(
        tmp_path / 'a', {4: 'loss nan'}, wrapper=mixed(2.0**127), hook=dict(max_in_all=1)
    )
    said = capfd.readouterr().out
    assert said.count('it is left out') == said.count('iteration 5: the loss') == 1
    expected = train(tmp_path / 'b', leave_out=[4], wrapper=mixed(2.0**127))
    assert_same(state_of(runner), state_of(expected))
    scalers = [r.optim_wrapper.loss_scaler.state_dict() for r in (runner, expected)]
    assert scalers[0] == scalers[1]
    assert scalers[0]['scale'] < 2.0**127  # so there were overflows
    start = state_of(runner)['model.head.weight']
    assert not torch.equal(start, Toy().head.weight)  # and steps


@needs_scaler
def test_an_overflow_without_end_is_one(tmp_path, monkeypatch):
    """A gradient that is NaN whatever the scale: the loss would stay as it is for ever."""
    always = dict.fromkeys(range(6), 'gradient nan')
    with pytest.raises(UserError, match='overflows in mixed precision, whatever') as error:
        train(tmp_path / 'a', always, wrapper=mixed(1e-3))
    assert 'first to go wrong: the gradient of head.weight' in str(error.value)
    monkeypatch.setattr(waiting_step, 'MOST_OVERFLOWS', 2)
    with pytest.raises(UserError, match='3 steps in a row were left out'):
        train(tmp_path / 'b', always, wrapper=mixed(1.0))


class SpoilsBackbone(Hook):
    """From iteration ``at`` on, the second stage of the backbone answers NaN."""

    def __init__(self, at):
        self.at = at

    def before_train(self, runner):
        def spoil(module, args, output):
            return output * math.nan if runner.iter >= self.at else None

        norm = next(m for m in runner.model.backbone.modules() if isinstance(m, nn.LayerNorm))
        norm.register_forward_hook(spoil)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    write_shapes(folder)
    return folder


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(HOOKS.module_dict, 'SpoilsBackbone', SpoilsBackbone)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
@pytest.mark.usefixtures('inside')
def test_a_training_of_each_task_leaves_a_step_out_and_stops_in_the_end(task, capfd):
    """NaN in a backbone ended in `done`; now its module is named, and no checkpoint holds it."""
    pytest.importorskip({'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}[task])
    length = 'max_iters=6, val_interval=9' if task == 'seg' else 'max_epochs=3, val_interval=9'
    write_config(
        Path(f'{task}.py'),
        task,
        rest="custom_hooks = [dict(type='SpoilsBackbone', at=1)]\n"
        f'train_cfg = dict({length})\n'
        'default_hooks = dict(checkpoint=dict(interval=1, by_epoch=False), '
        'finite=dict(max_in_a_row=1))',
    )
    assert run('train', f'{task}.py', '--work-dir', task) == 2
    said = capfd.readouterr()
    assert 'iteration 2: the loss or the norm of the gradient is not finite' in said.out
    assert '(1 in a row, at most 1; 1 in all, at most 100)' in said.out
    assert 'error: the training stops: 2 steps in a row are not finite.' in said.err
    assert 'first to go wrong: the output of backbone.' in said.err
    assert '(LayerNorm)' in said.err
    assert 'images: data/shapes/' in said.err
    kept = sorted(Path(task).glob('*.pth'))
    assert kept
    for file in kept:
        assert not not_finite(read_checkpoint(file)['state_dict'])


@pytest.mark.slow
@pytest.mark.usefixtures('inside')
def test_weights_that_are_not_finite_are_no_checkpoint(capfd):
    """Nothing that reads weights takes them; a resumed run does not either."""
    pytest.importorskip('mmpretrain')
    write_config(Path('fresh.py'), 'cls')
    assert run('train', 'fresh.py', '--work-dir', 'fresh') == 0
    good = read_checkpoint('fresh/epoch_1.pth')
    good['state_dict']['backbone.norm3.weight'][2] = math.nan
    good['state_dict']['head.fc.bias'][0] = -math.inf
    torch.save(good, 'bad.pth')
    capfd.readouterr()
    image = next(Path('data/shapes').rglob('*.png'))
    lines = [
        ('test', 'fresh.py', 'bad.pth', '--work-dir', 'other'),
        ('infer', image, 'fresh.py', 'bad.pth', '--out', 'drawn'),
        ('convert_official', 'bad.pth', 'converted.pth', '--to-official'),
        ('train', 'fresh.py', '--work-dir', 'other', '--resume', 'bad.pth'),
        ('train', 'fresh.py', '--work-dir', 'other', '--cfg-options', 'load_from=bad.pth'),
        ('train', 'fresh.py', '--work-dir', 'other', '--cfg-options',
         'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=bad.pth'),
    ]  # fmt: skip
    for line in lines:
        assert run(*line) == 2, line
        said = capfd.readouterr().err
        assert 'bad.pth is of no use' in said, line
        assert re.search(r'(1|2) of its \d+ tensors holds? NaN or infinity', said), line
        assert 'backbone.norm3.weight' in said or 'norm3.weight' in said, line
    assert not Path('converted.pth').exists()


JOB = """
import sys
import torch
from mmengine.runner import Runner
sys.path.insert(0, {tests!r})
from faults.test_finite import Toy, collate, samples

torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
data = samples({{}})
data[5]['data_samples'].set_metainfo(dict(fault='loss inf'))  # of process 1, in the second step
runner = Runner(
    Toy(),
    work_dir='work',
    train_dataloader=dict(
        batch_size=2, num_workers=0, dataset=data, collate_fn=collate,
        sampler=dict(type='DefaultSampler', shuffle=False),
    ),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=3),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
    default_hooks=dict(finite=dict(type='paca_mm.FiniteHook'), logger=dict(type='LoggerHook')),
    launcher='pytorch',
    cfg=dict(model_wrapper_cfg=dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )),
    default_scope='mmengine',
)
runner.train()
print('weights', rank, runner.model.module.head.weight.flatten().tolist(), flush=True)
"""


@pytest.mark.slow
def test_a_loss_of_one_process_is_everybodys(tmp_path):
    """Its gradient is finite, so without a word between them one process would step alone."""
    script = tmp_path / 'job.py'
    script.write_text(JOB.format(tests=str(Path(__file__).parents[1])))
    done = job(2, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count('it is left out') == said.count('iteration 2: the loss') == 1
    assert 'process 1, first to go wrong: the loss: loss' in said
    assert 'process 1, images: 5.png, 7.png' in said
    weights = {line.split(' ', 2)[2] for line in said.splitlines() if line.startswith('weights')}
    assert len(weights) == 1
    assert 'nan' not in weights.pop()


@pytest.mark.slow
def test_a_compiled_step_is_left_out_too(tmp_path, capfd):
    """The batch is run again without the compiler, which calls no hooks."""
    more = dict(cfg=dict(compile=dict(backend='eager')), hooks=[dict(type='EMAHook')])
    try:
        runner = train(tmp_path / 'a', {3: 'loss nan'}, **more)
    except AssertionError as error:
        if 'capturable=True' not in str(error):
            raise
        pytest.skip('the compiler of this torch asks optimizers for a GPU')
    assert 'first to go wrong: the loss: loss' in capfd.readouterr().out
    assert_same(state_of(runner), state_of(train(tmp_path / 'b', leave_out=[3], **more)))


def pipelines():
    """The training pipelines of detectors whose loss has the logarithm of a box."""
    for name in (
        'mask_rcnn_paca',
        'mask_rcnn_paca_shapes',
        'attentive_norm/mask_rcnn_r50_an',
        'recipes/faster_rcnn_paca',
        'recipes/cascade_mask_rcnn_paca',
        'recipes/retinanet_paca',
    ):
        yield name, load_config(f'configs/det/{name}.py').train_dataloader.dataset.pipeline


def test_a_box_that_an_image_cuts_to_nothing_is_not_trained_on(tmp_path):
    """An image that is smaller than its annotation says; all its boxes may go, the image stays."""
    pytest.importorskip('mmdet')
    root = own_data.coco(tmp_path / 'own')
    Image.new('RGB', (4, 4)).save(root / 'train/1.png')  # of 96 x 64, as the file has it
    dataset = own_data.coco_config(root).train_dataloader.dataset
    for name, pipeline in pipelines():
        assert pipeline[-2].type == 'FilterAnnotations', name
    init_default_scope('mmdet')
    with_size, as_cut = dataset.pipeline, [*dataset.pipeline[:-2], dataset.pipeline[-1]]
    counts = []
    for pipeline in (with_size, as_cut):
        sample = DATASETS.build({**dataset, 'pipeline': pipeline})[0]['data_samples']
        boxes = sample.gt_instances.bboxes
        counts.append((len(boxes), int((boxes.widths <= 0).sum())))
        assert len(sample.gt_instances.masks) == len(boxes)
    assert counts[0] == (counts[0][0], 0)
    assert counts[1][1] > 0
    assert counts[0][0] == counts[1][0] - counts[1][1]
