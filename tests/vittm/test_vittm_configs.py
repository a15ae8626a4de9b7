"""ViTTM's configs: their recipes, the published counts, one shrunk step of each; its command lines."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from helpers.configs import build, task_of
from helpers.schedules import rates_of
from helpers.tool import run
from paca_mm.analysis import recount
from paca_mm.analysis.build import row_config
from paca_mm.analysis.speed.contestants import Setting, make
from paca_mm.engine.config import configs, load_config
from paca_mm.errors import UserError
from paca_mm.families import row_named
from paca_mm.models.common.norms import revert_sync_batchnorm
from paca_mm.paths import assets_root
from paca_mm.zoo.metafiles import read_metafile

HOSTS = {'cls': 'mmpretrain', 'seg': 'mmseg'}
ALL = [path for path in configs() if path.parent.name == 'vittm']
ROWS = [f'{arch}_{patches}' for arch in ('small', 'base') for patches in ('28_28', '16_32')]
CLS = {row: f'configs/cls/vittm/vittm_{row}_in1k.py' for row in ROWS}
SEG = {row: f'configs/seg/vittm/segmenter_vittm_{row}_ade20k.py' for row in ROWS[2:]}
UPERNET = 'configs/seg/vittm/upernet_vittm_base_ade20k.py'


def test_these_are_all():
    assert {path.stem for path in ALL} == {
        *(f'vittm_{row}_in1k' for row in CLS),
        *(f'segmenter_vittm_{row}_ade20k' for row in SEG),
        'upernet_vittm_base_ade20k',
        'vittm_shapes',
        'segmenter_vittm_shapes',
    }


@pytest.mark.parametrize('task', HOSTS)
@pytest.mark.slow
def test_metafile_is_right(task):
    pytest.importorskip(HOSTS[task])
    assert list(recount.problems_of(f'{task}/vittm', macs=False)) == []
    published = {'vittm_base_28_28_in1k': 82.9, 'segmenter_vittm_base_28_28_ade20k': 45.17}
    for entry in read_metafile(f'{task}/vittm'):
        assert list(entry.metrics.values()) == [published[n] for n in published if n == entry.name]
        said = (assets_root() / entry.config).read_text().partition('_base_ =')[0]
        found = [float(value) for value in re.findall(r'Published: \S+ (\d+\.\d+)', said)]
        assert found == list(entry.metrics.values())


def test_the_readme_has_the_official_counts():
    """What the official model has and never uses is no parameter of ours."""
    text = (assets_root() / 'configs/cls/vittm/README.md').read_text()
    official = dict(zip(ROWS, ('33.18', '32.60', '126.52', '125.36'), strict=True))
    for entry in read_metafile('cls/vittm'):
        row, ours = entry.metadata['Row'], f'{entry.metadata["Parameters"] / 1e6:.2f}'
        assert re.search(rf'\| {row} \| {official[row]} \| {ours} \|', text), row


# ---- recipes


@pytest.mark.parametrize('row', CLS)
def test_the_recipe_on_imagenet(row):
    cfg = load_config(CLS[row])
    small = row.startswith('small')
    backbone, head = cfg.model.backbone, cfg.model.head
    patches = f'{backbone.memory_patch}_{backbone.process_patch}'
    assert row == f'{backbone.arch}_{patches}'
    assert backbone.drop_path_rate == (0.1 if small else 0.2)
    assert backbone.init_cfg.checkpoint == f'data/weights/vittm_{row}_in21k.pth'
    assert (head.loss.type, head.loss.use_sigmoid) == ('CrossEntropyLoss', True)
    optimizer, batch = cfg.optim_wrapper.optimizer, 4096 if small else 2048
    rate, decay = (1.75e-4, 0.03) if small else (2.5e-5, 0.1)
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', rate, decay)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment = steps['RandAugment']
    found = augment.num_policies, augment.magnitude_level
    assert found == ((2, 15) if small else (3, 20))
    assert 'RandomErasing' in steps
    mixup, cutmix = cfg.model.train_cfg.augments
    assert (mixup.type, cutmix.type) == ('Mixup', 'CutMix')
    assert mixup.alpha == (0.5 if small else 0.8)
    assert cfg.train_cfg.max_epochs == 300
    (average,) = cfg.custom_hooks
    assert (average.type, 1 - average.momentum) == ('EMAHook', 0.999)
    assert (cfg.param_scheduler[0].type, cfg.param_scheduler[0].end) == ('LinearLR', 3000)
    test = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert (test['ResizeEdge'].scale, test['CenterCrop'].crop_size) == (256, 224)


@pytest.mark.parametrize('row', SEG)
def test_the_recipe_of_segmenter(row):
    cfg = load_config(SEG[row])
    equal = row == 'base_28_28'
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert row == f'{backbone.arch}_{backbone.memory_patch}_{backbone.process_patch}'
    assert backbone.out_indices == (11,) or backbone.out_indices == [11]
    assert head.type == 'SegmenterMaskTransformerHead'
    assert (head.num_layers, head.num_heads, head.embed_dims) == (2, 12, 768)
    assert head.in_channels == (1536 if equal else 768)
    assert cfg.model.data_preprocessor.mean == cfg.model.data_preprocessor.std == [127.5] * 3
    side = 504 if equal else 512
    assert tuple(cfg.model.test_cfg.crop_size) == (side, side)
    assert cfg.model.test_cfg.mode == 'slide'
    pipeline = cfg.train_dataloader.dataset.pipeline
    steps = {step.type: step for step in pipeline}
    assert tuple(steps['RandomCrop'].crop_size) == tuple(steps['Pad'].size) == (side, side)
    assert side % cfg.model.data_preprocessor.size_divisor == 0
    optimizer = cfg.optim_wrapper.optimizer
    rate, iterations, batch = (5e-4, 160000, 16) if equal else (4e-3, 480000, 4)
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.9, 0)
    assert optimizer.lr == rate
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.auto_scale_lr.base_batch_size == batch
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.eta_min, poly.end) == ('PolyLR', 0.9, 1e-4, iterations)
    hooks = [hook.ema_type for hook in cfg.get('custom_hooks', [])]
    assert hooks == (['StochasticWeightAverage'] if equal else [])


def test_the_recipe_of_upernet():
    cfg = load_config(UPERNET)
    assert list(cfg.model.backbone.out_indices) == [3, 5, 7, 11]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 6e-5, 0.01)
    paramwise = cfg.optim_wrapper.paramwise_cfg
    assert paramwise.norm_decay_mult == paramwise.custom_keys.pos_embed.decay_mult == 0
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.end, poly.power, poly.end) == (1500, 1.0, 160000)


def test_the_pyramid_is_the_published_one():
    """Of maps of one size: a transposed convolution of two steps, one, none, and a max-pooling."""
    pytest.importorskip('mmseg')
    cfg = load_config(UPERNET)
    with DefaultScope.overwrite_default_scope('mmseg'):
        neck = MODELS.build({**cfg.model.neck, 'embed_dim': 4})
    four, two, _, half = neck.upsample_4x, neck.upsample_2x, neck.identity, neck.downsample_2x
    first, norm, activation, second = four
    assert isinstance(norm, torch.nn.SyncBatchNorm)
    assert isinstance(activation, torch.nn.GELU)
    for layer in (first, second, *two):
        assert type(layer) is torch.nn.ConvTranspose2d
        assert layer.kernel_size == layer.stride == (2, 2)
    assert (type(half), half.kernel_size, half.stride) == (torch.nn.MaxPool2d, 2, 2)


def test_learning_rate_begins_with_a_line():
    pytest.importorskip('mmpretrain')
    cfg = load_config(CLS['base_28_28'])
    line, cosine = cfg.param_scheduler
    assert (line.by_epoch, line.start_factor) == (False, 1e-3)
    cosine = dict(cosine, convert_to_iter_based=False)
    cfg.param_scheduler = [cosine]
    rates = list(rates_of(cfg, 301))
    assert rates[0] == pytest.approx(2.5e-5)
    assert rates[150] == pytest.approx(1.25e-5)
    assert rates[300] == pytest.approx(0, abs=1e-9)


# ---- one shrunk step of every config


def shrink(cfg):
    """Keep the structure of a config's model, with few channels."""
    backbone = cfg.model.backbone
    layers = max(backbone.get('out_indices', (0,))) + 1
    backbone.arch = dict(embed_dims=24, num_layers=max(layers, 2), num_heads=2)
    backbone.pop('init_cfg', None)
    if 'head' in cfg.model:
        cfg.model.head.in_channels = 24
        return
    head = cfg.model.decode_head
    if head.type == 'UPerHead':
        cfg.model.neck.embed_dim = 24
        head.update(in_channels=[24] * 4, channels=16)
        cfg.model.auxiliary_head.update(in_channels=24, channels=16)
    else:
        channels = 48 if backbone.get('out_type') == 'both' else 24
        head.update(in_channels=channels, channels=channels, num_heads=2, embed_dims=24)


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_one_shrunk_step_and_prediction(path):
    task = task_of(path)
    pytest.importorskip(HOSTS[task])
    from paca_mm.analysis.toy_inputs import annotations

    cfg = Config.fromfile(path)
    shrink(cfg)
    side = 56 if cfg.model.backbone.memory_patch == 28 else 64
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(build(cfg)).train()
        samples = annotations(model, task, 2, side, side)
        images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(2)]
        inputs = torch.stack(images) if task == 'cls' else images
        data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
        losses = model(**data, mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
        assert torch.isfinite(total)
        if task == 'cls':
            assert {'loss_memory', 'loss_process'} <= losses.keys()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
        # A smaller image than the window and, where it is padded, of a side that no patch divides.
        width = 50 if cfg.model.backbone.get('pad_to_patch') else side
        images = [image[:, :, :width] for image in images]
        inputs = torch.stack(images) if task == 'cls' else images
        samples = annotations(model, task, 2, side, width)
        data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples))
        with torch.no_grad():
            result = model.eval()(**data, mode='predict')
    assert len(result) == 2


# ---- by the command lines


def test_rows_are_contestants():
    """The complete classifier but for two small norms, at sizes that the patches do not divide too."""
    made = make('vittm_small_28_28+cp', Setting('train', batch=1, height=64, width=50))
    made.run()
    backbone = made.model.backbone.backbone
    assert all(p.grad is not None for p in backbone.parameters())
    heads = 1000 * 385 + 3 * 2 * 384
    assert made.facts.params == 29_262_800 - heads


def test_a_pyramid_detector_does_not_take_it():
    family, row = row_named('vittm_small_28_28')
    with pytest.raises(UserError, match=r'mask_rcnn takes four maps.*a ViTTM has 12'):
        row_config('mask_rcnn', family, row)
    family, row = row_named('vittm_base_16_32')
    assert row_config('upernet', family, row).model.neck.type == 'Feature2Pyramid'


@pytest.mark.slow
def test_the_convert_command_knows_the_rows(tmp_path, capsys):
    from paca_mm.models import ViTTM

    torch.manual_seed(0)
    model = ViTTM('small', memory_patch=16, process_patch=32, out_type='raw')
    torch.save(model.state_dict(), tmp_path / 'ours.pth')
    official, back = tmp_path / 'official.pth', tmp_path / 'back.pth'
    assert run('convert_official', tmp_path / 'ours.pth', official, '--to-official') == 0
    out = capsys.readouterr().out
    assert "arch='small', memory_patch=16, process_patch=32 (the published row small_16_32)" in out
    assert '52 constants added' in out
    assert run('convert_official', official, back, '--row', 'small_16_32') == 0
    assert '52 constants left out' in capsys.readouterr().out
    state = torch.load(back)['state_dict']
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key


@pytest.mark.parametrize('path', [*SEG.values(), UPERNET])
def test_from_scratch_a_large_vit_learns_at_a_smaller_rate(path):
    """What a config says of the embedded dataset wins over the schedule for it, and under it only."""
    pytest.importorskip('mmseg')
    own, shapes = load_config(path), load_config(path, shapes=True)
    assert own.optim_wrapper.optimizer.lr in (5e-4, 4e-3, 6e-5)
    assert shapes.optim_wrapper.optimizer.type == 'AdamW'
    assert shapes.optim_wrapper.optimizer.lr == 2e-4
    assert 'on_shapes' not in shapes
    assert shapes.train_cfg.max_iters == 1200
