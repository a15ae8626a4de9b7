"""RapidNet's configs: their recipes, the published counts, one shrunk step of each."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from rapidnet.examples import MINI

from helpers.configs import build, task_of
from helpers.schedules import rates_of, timm_rate
from helpers.small import shrink_mask_rcnn
from paca_mm.analysis import recount
from paca_mm.engine.config import configs, load_config, use_shapes
from paca_mm.engine.distributed import prepare_cpu
from paca_mm.models.common.norms import revert_sync_batchnorm
from paca_mm.paths import assets_root
from paca_mm.zoo.metafiles import read_metafile

HOSTS = {'cls': 'mmpretrain', 'det': 'mmdet', 'seg': 'mmseg'}
ALL = [path for path in configs() if path.parent.name == 'rapidnet']
CLS = {row: f'configs/cls/rapidnet/rapidnet_{row}_in1k.py' for row in ('ti', 's', 'm', 'b')}

#: Parameters of the classifiers with two heads, and MACs at 224 x 224 (specification).
COUNTS = {
    'ti': (6_627_840, 0.617),
    's': (9_213_088, 0.897),
    'm': (17_304_496, 1.597),
    'b': (30_556_496, 3.354),
}
WIDTHS = {'m': [32, 64, 160, 320], 'b': [64, 128, 224, 416]}


def test_these_are_all():
    assert {path.stem for path in ALL} == {
        *(f'rapidnet_{row}_in1k' for row in CLS),
        *(f'mask_rcnn_rapidnet_{row}' for row in 'mb'),
        *(f'fpn_rapidnet_{row}_ade20k' for row in 'mb'),
        'rapidnet_shapes',
        'mask_rcnn_rapidnet_shapes',
        'fpn_rapidnet_shapes',
    }


@pytest.mark.parametrize('task', HOSTS)
def test_metafile_is_right(task):
    pytest.importorskip(HOSTS[task])
    assert list(recount.problems_of(f'{task}/rapidnet', macs=False)) == []
    if task == 'cls':
        for entry in read_metafile('cls/rapidnet'):
            parameters, gmacs = COUNTS[entry.metadata['Row']]
            assert entry.metadata['Parameters'] == parameters
            assert round(entry.metadata['FLOPs'] / 1e9, 3) == gmacs
            assert dict(entry.metrics) == (
                {'Top 1 Accuracy': 76.3} if entry.metadata['Row'] == 'ti' else {}
            )
            assert any('huggingface.co/SLDGroup/RapidNet' in note for note in entry.notes)


def test_macs_of_a_metafile_are_those_that_are_counted():
    pytest.importorskip('mmpretrain')
    (entry, *_) = read_metafile('cls/rapidnet')
    assert (
        recount.count_macs(Config.fromfile(assets_root() / entry.config), 224, 224)
        == (entry.metadata['FLOPs'])
    )


# ---- recipes


@pytest.mark.parametrize('row', CLS)
def test_the_recipe_on_imagenet(row):
    cfg = load_config(CLS[row])
    backbone, head = cfg.model.backbone, cfg.model.head
    assert (backbone.arch, backbone.drop_path_rate, backbone.norm_cfg.type) == (row, 0.1, 'SyncBN')
    assert (head.alpha, head.get('distillation', True), head.norm_cfg.type) == (0.5, True, 'SyncBN')
    assert head.loss.label_smooth_val == 0.1
    assert cfg.model.teacher.model_name.startswith('regnety_160')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-3, 0.05)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    assert cfg.train_cfg.max_epochs == 310
    (average,) = cfg.custom_hooks
    assert (average.type, 1 - average.momentum) == ('EMAHook', 0.99996)
    assert [a.alpha for a in cfg.model.train_cfg.augments] == [0.8, 1.0]


def test_learning_rate_is_timms():
    pytest.importorskip('mmpretrain')
    cfg = load_config(CLS['ti'])
    for epoch, rate in enumerate(rates_of(cfg, 310)):
        near = 0.0115 if epoch < 20 else 5e-4
        assert rate == pytest.approx(timm_rate(epoch, 2e-3, warmup=20), near, 1e-7), epoch


@pytest.mark.parametrize('row', WIDTHS)
def test_the_recipe_on_coco(row):
    cfg = load_config(f'configs/det/rapidnet/mask_rcnn_rapidnet_{row}.py')
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.norm_cfg.type) == (row, 'SyncBN')
    assert backbone.init_cfg.checkpoint == f'data/weights/rapidnet_{row}.pth'
    assert cfg.model.neck.in_channels == WIDTHS[row]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-4, 0.05)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor, steps.milestones) == (500, 1e-6, [8, 11])
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (12, 1)
    resize = [s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'Resize']
    assert [s.scale for s in resize] == [(1333, 800)]


@pytest.mark.parametrize('row', WIDTHS)
def test_the_recipe_on_ade20k(row):
    cfg = load_config(f'configs/seg/rapidnet/fpn_rapidnet_{row}_ade20k.py')
    assert (cfg.model.backbone.arch, cfg.model.backbone.norm_cfg.type) == (row, 'SyncBN')
    assert cfg.model.neck.in_channels == WIDTHS[row]
    assert (cfg.model.decode_head.type, cfg.model.decode_head.num_classes) == ('FPNHead', 150)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-4, 1e-4)
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.end) == ('PolyLR', 0.9, 40000)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40000, 4000)
    assert cfg.default_hooks.checkpoint.interval == 4000
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 32
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomCrop'].crop_size == (512, 512)


# ---- one shrunk step of every config


def shrink(cfg):
    """Keep the structure of a config's model, with few channels."""
    model = cfg.model
    model.backbone.arch = MINI
    model.backbone.pop('init_cfg', None)
    dims = list(MINI['embed_dims'])
    if 'roi_head' in model:
        shrink_mask_rcnn(model, dims)
    elif 'decode_head' in model:
        model.neck.update(in_channels=dims, out_channels=16)
        model.decode_head.update(in_channels=[16] * 4, channels=16)
    else:
        model.head.update(in_channels=dims[-1], hidden_channels=8)


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_one_shrunk_step_and_prediction(path):
    task = task_of(path)
    pytest.importorskip(HOSTS[task])
    from paca_mm.analysis.toy_inputs import annotations

    cfg = Config.fromfile(path)
    if cfg.model.get('teacher'):
        cfg.model.teacher = None  # no download
    shrink(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(build(cfg)).train()
        samples = annotations(model, task, 2, 64, 64)
        images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
        inputs = torch.stack(images) if task == 'cls' else images
        data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
        losses = model(**data, mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
        assert torch.isfinite(total)
        if task == 'cls':
            assert {'loss', 'loss_dist'} <= losses.keys()
        for name, parameter in model.backbone.named_parameters():
            assert parameter.grad is not None, name
        samples = annotations(model, task, 2, 64, 64)
        data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples))
        with torch.no_grad():
            result = model.eval()(**data, mode='predict')
    assert len(result) == 2


@pytest.mark.slow
def test_averaging_and_repeating_are_what_mmengine_knows(tmp_path):
    """A few steps of the recipe's own sampler and hook, on the embedded dataset."""
    pytest.importorskip('mmpretrain')
    from paca_mm.datasets.shapes import ensure_shapes
    from paca_mm.engine.runner import SafeRunner

    cfg = load_config(CLS['ti'])
    hooks, sampler = list(cfg.custom_hooks), cfg.train_dataloader.sampler
    use_shapes(cfg)
    shrink(cfg)
    cfg.custom_hooks = hooks
    root = ensure_shapes(tmp_path / 'shapes', num_train=24, num_val=6)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(root)
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler = sampler
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    cfg.work_dir = str(tmp_path / 'work')
    prepare_cpu(cfg, 'none')
    init_default_scope('mmpretrain')
    runner = SafeRunner.from_cfg(cfg)
    runner.train()
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    # mmengine saves the averages under the model's own names.
    average, raw = saved['state_dict'], saved['ema_state_dict']
    key = 'head.fc_dist.weight'
    assert not torch.equal(average[key], raw[f'module.{key}'])
