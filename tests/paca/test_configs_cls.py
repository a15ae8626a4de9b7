"""Every classification config: the official answers, the official preprocessing, the recipe."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import golden
from helpers.images import textured
from helpers.rows import ROWS
from helpers.schedules import rates_of, timm_rate

mmpretrain = pytest.importorskip('mmpretrain')

from mmengine.dataset import default_collate  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import (  # noqa: E402
    DefaultScope,
    init_default_scope,
)
from mmengine.runner import load_checkpoint  # noqa: E402
from mmpretrain.registry import MODELS, TRANSFORMS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from paca_mm.checkpoint import load_whole  # noqa: E402
from paca_mm.checkpoint.convert import convert  # noqa: E402
from paca_mm.engine.config import configs, load_config  # noqa: E402
from paca_mm.engine.distributed import prepare_cpu  # noqa: E402
from paca_mm.errors import UserError  # noqa: E402
from paca_mm.paths import assets_root  # noqa: E402

CONFIGS = [path for path in configs() if path.parent.name == 'cls']
IN1K = {row: f'configs/cls/paca_{row}_in1k.py' for row in ROWS}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        init_default_scope('mmpretrain')
        yield


def build(config, **kwargs):
    return MODELS.build(load_config(str(config), **kwargs).model)


# ---- the official answers


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('cls_tiny_conv')
    return golden.state_dict(meta['shapes']), meta['input'], torch.from_numpy(answers['logits'])


def _by_load_whole(model, state, tmp_path):
    report = load_whole(model, dict(state), 'official.pth', strict=True)
    assert not report.unexpected
    assert not report.reset


def _by_load_state_dict(model, state, tmp_path):
    model.load_state_dict(state, strict=True)


def _by_mmengine(model, state, tmp_path):
    torch.save({'state_dict': state}, tmp_path / 'official.pth')
    load_checkpoint(model, str(tmp_path / 'official.pth'), map_location='cpu', strict=True)


def _converted(model, state, tmp_path):
    model.load_state_dict(convert(state).state, strict=True)


@pytest.mark.parametrize(
    'load',
    [_by_load_whole, _by_load_state_dict, _by_mmengine, _converted],
    ids=lambda f: f.__name__,
)
def test_golden_logits_by_every_path(load, official, tmp_path):
    state, (batch, _, height, width), logits = official
    model = build(IN1K['tiny']).eval()
    load(model, state, tmp_path)
    with torch.no_grad():
        answer = model(golden.image(batch, height, width))
    torch.testing.assert_close(answer, logits, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_another_row_is_named(official):
    with pytest.raises(UserError, match='the published row tiny'):
        load_whole(build(IN1K['small']), dict(official[0]), 'official.pth', strict=True)


def test_fine_tuning_starts_from_the_whole_file_but_its_head(official):
    model = build(IN1K['tiny'], options={'model.head.num_classes': 7})
    report = load_whole(model, dict(official[0]), 'official.pth', strict=False)
    assert [key for key, *_ in report.reset] == ['head.fc.weight', 'head.fc.bias']
    norm = official[0]['norm4.weight']
    assert torch.equal(model.backbone.norm4.weight.detach(), norm)


# ---- the official preprocessing

SIZES = [(300, 400), (401, 333), (248, 248), (224, 224), (97, 613), (640, 249), (249, 640), (1, 5)]


def _by_pillow(path):
    """timm's evaluation in its own terms: Pillow, sizes rounded as torchvision rounds them."""
    image = Image.open(path).convert('RGB')
    width, height = image.size
    side = math.floor(224 / 0.9)
    short = min(width, height)
    size = tuple(
        side if length == short else int(side * length / short) for length in (width, height)
    )
    image = image.resize(size, Image.BICUBIC)
    left, top = (round((length - 224) / 2.0) for length in size)
    image = image.crop((left, top, left + 224, top + 224))
    x = np.asarray(image, np.float64) / 255
    x = (x - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return np.asarray(image), x.transpose(2, 0, 1)


def _by_config(path):
    cfg = load_config(IN1K['small'])
    results = {'img_path': str(path), 'gt_label': 0}
    for transform in cfg.test_dataloader.dataset.pipeline:
        results = TRANSFORMS.build(transform)(results)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    return results['inputs'], preprocessor(default_collate([results]))['inputs'][0]


def _assert_preprocessed_alike(path):
    pixels, normalised = _by_pillow(path)
    raw, inputs = _by_config(path)
    assert np.array_equal(raw.numpy()[::-1].transpose(1, 2, 0), pixels)  # BGR here, RGB there
    np.testing.assert_allclose(inputs.numpy(), normalised, atol=2e-6)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_preprocessing_is_the_official_one(size, tmp_path):
    Image.fromarray(textured(*size)).save(tmp_path / 'a.png')
    _assert_preprocessed_alike(tmp_path / 'a.png')


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK'])
def test_images_that_are_not_rgb(mode, tmp_path):
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    Image.fromarray(textured(301, 257)).convert(mode).save(path)
    _assert_preprocessed_alike(path)


def test_jpeg_and_its_orientation(tmp_path):
    """Pillow's decoder, and no turning by EXIF: timm does not turn either."""
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    Image.fromarray(textured(301, 257)).save(tmp_path / 'a.jpg', quality=80, exif=exif)
    _assert_preprocessed_alike(tmp_path / 'a.jpg')


# ---- the recipe


@pytest.mark.parametrize('row', ROWS)
def test_recipe_of_a_row(row):
    cfg = load_config(IN1K[row])
    assert cfg.model.backbone.drop_path_rate == (0.5 if row == 'base' else 0.1)
    clip = dict(max_norm=1.0) if row in ('base', 'base_teacher') else None
    assert cfg.optim_wrapper.get('clip_grad') == clip
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert sum(p.numel() for p in _meta(cfg).parameters()) == ROWS[row][2]


def _meta(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_learning_rate_is_timms():
    cfg = load_config(IN1K['small'])
    for epoch, rate in enumerate(rates_of(cfg, 300)):
        assert rate == pytest.approx(timm_rate(epoch, 1e-3, warmup=5), rel=5e-4), epoch


def test_nothing_but_matrices_decays():
    cfg = load_config(IN1K['tiny_teacher'])
    model = MODELS.build(cfg.model)
    prepare_cpu(cfg, 'none')
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert len(groups) == len(list(model.parameters()))
    for group in groups:
        (parameter,) = group['params']
        assert group['weight_decay'] == (0.05 if parameter.ndim > 1 else 0.0)


def test_the_head_starts_as_the_official_one():
    model = build(IN1K['tiny'])
    model.init_weights()
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.head.fc.bias.any()


# ---- every config


def _one_step(cfg, side=64):
    prepare_cpu(cfg, 'none')
    model = MODELS.build(cfg.model)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    labels = [DataSample().set_gt_label(i) for i in range(2)]
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    before = model.head.fc.weight.detach().clone()
    losses = model.train_step(dict(inputs=images, data_samples=labels), optim_wrapper)
    assert torch.isfinite(losses['loss'])
    assert not torch.equal(model.head.fc.weight, before)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
@pytest.mark.slow
def test_a_step_of_every_config(path):
    cfg = load_config(str(path))
    cfg.model.backbone.pop('init_cfg', None)  # no download
    _one_step(cfg)


@pytest.mark.parametrize('row', ['tiny', 'base_teacher'])
def test_shapes_overlay_fits_any_config(row):
    cfg = load_config(IN1K[row], shapes=True)
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 6
    assert cfg.train_dataloader.dataset.type == 'CustomDataset'
    if row == 'tiny':
        _one_step(cfg)


def test_there_is_a_config_for_every_row():
    assert {path.stem for path in CONFIGS} >= {f'paca_{row}_in1k' for row in ROWS}


# ---- what the README says


@pytest.mark.slow
def test_python_of_the_readme(tmp_path, monkeypatch, official):
    """Its examples run as they stand, with local weights in place of the download."""
    pytest.importorskip('modelindex')
    torch.save(official[0], tmp_path / 'official.pth')
    Image.fromarray(textured(60, 80)).save(tmp_path / 'image.jpg')
    monkeypatch.chdir(tmp_path)
    readme = (assets_root() / 'configs' / 'cls' / 'README.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) == 5
        exec(block.replace('pretrained=True', "pretrained='official.pth'"), {})


def test_commands_of_the_readme_exist():
    root = assets_root()
    readme = (root / 'configs' / 'cls' / 'README.md').read_text()
    commands = re.findall(r'^(?:python|bash) (tools/\S+)(?: (configs/\S+))?', readme, re.MULTILINE)
    assert commands
    for tool, config in commands:
        assert (root / tool).is_file(), tool
        assert not config or (root / config).is_file(), config


@pytest.mark.slow
def test_convert_command(tmp_path, official):
    torch.save(official[0], tmp_path / 'official.pth')
    tool = Path(assets_root()) / 'tools' / 'convert_official.py'
    command = [sys.executable, str(tool), 'official.pth', 'ours.pth', '--row']
    done = subprocess.run([*command, 'tiny'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '239 tensors: 239 renamed' in done.stdout
    done = subprocess.run([*command, 'base'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'error: ours.pth exists already' in done.stderr
    assert 'Traceback' not in done.stderr
