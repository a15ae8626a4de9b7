"""Classification: the official answers, the official preprocessing, every config."""

import math
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from helpers import golden
from helpers.rows import ROWS

mmpretrain = pytest.importorskip('mmpretrain')

from mmengine.dataset import default_collate  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import (  # noqa: E402
    HOOKS,
    PARAM_SCHEDULERS,
    RUNNERS,
    DefaultScope,
    init_default_scope,
)
from mmengine.runner import load_checkpoint  # noqa: E402
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from mmpretrain.visualization import UniversalVisualizer  # noqa: E402

from paca_mm.checkpoint import load_whole  # noqa: E402
from paca_mm.checkpoint.convert import convert  # noqa: E402
from paca_mm.engine.checks import check_config  # noqa: E402
from paca_mm.engine.config import configs, load_config  # noqa: E402
from paca_mm.engine.distributed import prepare_cpu  # noqa: E402
from paca_mm.engine.loading import naming_files  # noqa: E402
from paca_mm.engine.predict import Predictor  # noqa: E402
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
def test_golden_logits_by_every_road(load, official, tmp_path):
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


def _image(height, width, seed=0):
    """Smooth gradients with noise on top: both what resizing keeps and what it loses."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    return ((ramps + rng.randint(0, 96, (height, width, 3))) % 256).astype(np.uint8)


def _assert_preprocessed_alike(path):
    pixels, normalised = _by_pillow(path)
    raw, inputs = _by_config(path)
    assert np.array_equal(raw.numpy()[::-1].transpose(1, 2, 0), pixels)  # BGR here, RGB there
    np.testing.assert_allclose(inputs.numpy(), normalised, atol=2e-6)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_preprocessing_is_the_official_one(size, tmp_path):
    Image.fromarray(_image(*size)).save(tmp_path / 'a.png')
    _assert_preprocessed_alike(tmp_path / 'a.png')


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK'])
def test_images_that_are_not_rgb(mode, tmp_path):
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    Image.fromarray(_image(301, 257)).convert(mode).save(path)
    _assert_preprocessed_alike(path)


def test_jpeg_and_its_orientation(tmp_path):
    """Pillow's decoder, and no turning by EXIF: timm does not turn either."""
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    Image.fromarray(_image(301, 257)).save(tmp_path / 'a.jpg', quality=80, exif=exif)
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


def _timm_rate(epoch, rate=1e-3, low=1e-5, start=1e-6, warmup=5, epochs=300):
    if epoch < warmup:
        return start + epoch * (rate - start) / warmup
    return low + (rate - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def test_learning_rate_is_timms():
    cfg = load_config(IN1K['small'])
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr
    )
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer))
        for scheduler in cfg.param_scheduler
    ]
    for epoch in range(300):
        assert optimizer.param_groups[0]['lr'] == pytest.approx(_timm_rate(epoch), rel=5e-4), epoch
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


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


# ---- data that is wrong


def _folders(root, classes, images=1):
    for split in ('train', 'val'):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                Image.fromarray(_image(8, 8, i)).save(root / split / name / f'{i}.png')


def _user_config(root, num_classes, **options):
    return load_config(
        'configs/cls/paca_finetune.py',
        options={
            'train_dataloader.dataset.data_root': f'{root}/',
            'val_dataloader.dataset.data_root': f'{root}/',
            'model.head.num_classes': num_classes,
            'model.data_preprocessor.num_classes': num_classes,
            **options,
        },
    )


def test_fine_tuning_on_ones_own_folders(tmp_path, official):
    """The config to copy, from the official file to a checkpoint, on a handful of images."""
    _folders(tmp_path / 'data', ['ant', 'bee'], images=2)
    torch.save(official[0], tmp_path / 'official.pth')
    options = {
        'data_root': 'unused',
        'model.backbone.arch': 'tiny',
        'model.backbone.init_cfg.checkpoint': str(tmp_path / 'official.pth'),
        'train_cfg.max_epochs': 1,
        'train_dataloader.batch_size': 2,
        'work_dir': str(tmp_path / 'out'),
    }
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False}
    cfg = _user_config(tmp_path / 'data', 2, **options)
    cfg.param_scheduler = []
    check_config(cfg, ['train', 'val'])
    prepare_cpu(cfg, 'none')
    runner = RUNNERS.build(cfg)
    norm = official[0]['norm4.weight']
    runner.train()
    moved = (runner.model.backbone.norm4.weight.detach() - norm).abs().max().item()
    assert 0 < moved < 1e-3  # the loaded weights survive the start of the training
    assert (tmp_path / 'out' / 'epoch_1.pth').is_file()
    assert 'accuracy/top1' in runner.val_loop.run()


def test_a_missing_imagenet_is_found_before_training(tmp_path):
    cfg = load_config(
        IN1K['tiny'], options={'train_dataloader.dataset.data_root': f'{tmp_path}/x/'}
    )
    with pytest.raises(UserError, match=r'(?s)looked for: .*x/train.*ln -s.*--shapes'):
        check_config(cfg, ['train'])


def test_a_flat_folder_is_recognised(tmp_path):
    (tmp_path / 'train').mkdir()
    Image.fromarray(_image(8, 8)).save(tmp_path / 'train' / 'a.png')
    with pytest.raises(UserError, match='no class folders, but 1 images lie in it directly'):
        check_config(_user_config(tmp_path, 2), ['train'])


def test_a_flat_folder_with_imagenets_own_list_is_fine(tmp_path):
    """What OpenMMLab's scripts prepare: val/ flat, and meta/val.txt with the labels."""
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    Image.fromarray(_image(8, 8)).save(tmp_path / 'val' / 'a.png')
    (tmp_path / 'meta' / 'val.txt').write_text('a.png 3\n')
    cfg = load_config(IN1K['tiny'], options={'val_dataloader.dataset.data_root': f'{tmp_path}/'})
    check_config(cfg, ['val'])
    assert DATASETS.build(cfg.val_dataloader.dataset)[0]['data_samples'].gt_label.item() == 3


def test_the_class_count_must_be_the_heads(tmp_path):
    _folders(tmp_path, ['ant', 'bee', 'cat'])
    with pytest.raises(UserError, match=r'(?s)num_classes=2.* has 3 classes \(ant, bee, cat\)'):
        check_config(_user_config(tmp_path, 2), ['train'])
    check_config(_user_config(tmp_path, 3), ['train'])


def test_an_image_without_bytes_is_named(tmp_path):
    _folders(tmp_path, ['ant', 'bee'], images=2)
    (tmp_path / 'train' / 'bee' / '1.png').write_bytes(b'')
    with pytest.raises(UserError, match=r'bee/1\.png is empty'):
        check_config(_user_config(tmp_path, 2), ['train'])


def test_class_folders_without_images(tmp_path):
    _folders(tmp_path, ['ant', 'bee'], images=0)
    with pytest.raises(UserError, match=r'train_dataloader has no images: none in the class'):
        check_config(_user_config(tmp_path, 2), ['train'])


def test_training_and_validation_must_have_the_same_classes(tmp_path):
    _folders(tmp_path, ['ant', 'bee'])
    cfg = _user_config(tmp_path, 2)
    check_config(cfg, ['train', 'val'])
    (tmp_path / 'val' / 'bee').rename(tmp_path / 'val' / 'wasp')
    with pytest.raises(UserError, match=r'same class folders: bee, wasp are in one'):
        check_config(cfg, ['train', 'val'])


def test_folders_of_ones_own_are_not_imagenet(tmp_path):
    _folders(tmp_path, ['ant', 'bee'])
    options = {
        'train_dataloader.dataset.data_root': f'{tmp_path}/',
        'model.head.num_classes': 2,
        'model.data_preprocessor.num_classes': 2,
    }
    with pytest.raises(UserError, match=r"(?s)2 class folders .* 1000 .*type='CustomDataset'"):
        check_config(load_config(IN1K['tiny'], options=options), ['train'])


def test_fewer_images_than_a_batch(tmp_path):
    """With ``drop_last``, mmengine would run all epochs without a single step."""
    _folders(tmp_path, ['ant', 'bee'])
    check_config(_user_config(tmp_path, 2), ['train'])
    cfg = _user_config(tmp_path, 2, **{'train_dataloader.drop_last': True})
    with pytest.raises(UserError, match=r'2 images, fewer than a batch of 64'):
        check_config(cfg, ['train'])


def test_the_heads_width_must_be_the_backbones(tmp_path):
    _folders(tmp_path, ['ant', 'bee'])
    cfg = _user_config(tmp_path, 2, **{'model.backbone.arch': 'base'})
    with pytest.raises(UserError, match=r"in_channels=384, .* \(arch='base'\) has 512 channels"):
        check_config(cfg, ['train'])


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('a.png 1000', 'holds the class 1000, but LinearClsHead has num_classes=1000: 0 to 999'),
        ('a.png', r'val.txt is no list of labels .* such as: a.jpg 0'),
        ('b.png 3', r'b\.png cannot be opened'),
    ],
)
def test_a_wrong_list_of_labels(tmp_path, line, message):
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    Image.fromarray(_image(8, 8)).save(tmp_path / 'val' / 'a.png')
    (tmp_path / 'meta' / 'val.txt').write_text(f'{line}\n')
    cfg = load_config(IN1K['tiny'], options={'val_dataloader.dataset.data_root': f'{tmp_path}/'})
    with pytest.raises(UserError, match=message):
        check_config(cfg, ['val'])


def _damage(path):
    """Zeros in the middle: both ends are those of a whole image."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9] = bytes(9)
    path.write_bytes(content)


def test_an_image_that_is_damaged_inside_is_named_when_it_stops_a_run(tmp_path):
    _folders(tmp_path, ['ant', 'bee'])
    _damage(tmp_path / 'train' / 'bee' / '0.png')
    cfg = _user_config(tmp_path, 2)
    check_config(cfg, ['train'])  # looks at the ends only
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    naming_files(DataLoader(dataset))
    with pytest.raises(UserError, match=r'bee/0\.png is damaged'):
        dataset[1]
    assert dataset[0]['inputs'].shape[0] == 3


def test_images_and_devices_that_cannot_be_used_to_predict(tmp_path, official):
    torch.save(official[0], tmp_path / 'tiny.pth')
    image = tmp_path / 'a.png'
    Image.fromarray(_image(60, 80)).save(image)
    cfg = load_config(IN1K['tiny'])
    with pytest.raises(UserError, match='the device gpu cannot be used'):
        Predictor(cfg, str(tmp_path / 'tiny.pth'), 'gpu')
    predictor = Predictor(cfg, str(tmp_path / 'tiny.pth'), 'cpu')
    assert len(predictor.predict(str(image))['top']) == 5
    _damage(image)
    with pytest.raises(UserError, match=r'a\.png is damaged'):
        predictor.predict(str(image))
    image.write_bytes(b'')
    with pytest.raises(UserError, match=r'a\.png is empty'):
        predictor.predict(str(image))


def test_images_of_the_embedded_dataset_are_turned_to_all_eight_positions():
    steps = load_config('configs/cls/paca_shapes.py').train_dataloader.dataset.pipeline[1:3]
    turn = [TRANSFORMS.build(step) for step in steps]
    image = _image(16, 16)
    seen = set()
    for _ in range(200):
        results = {'img': image.copy()}
        for step in turn:
            results = step(results)
        seen.add(results['img'].tobytes())
    turned = [np.rot90(side, k) for side in (image, image[::-1]) for k in range(4)]
    assert seen == {position.tobytes() for position in turned}


# ---- images of the predictions


def test_predictions_are_drawn_in_their_colours_and_under_their_own_names(tmp_path):
    hook = HOOKS.build(dict(type='paca_mm.DrawClassesHook', out_dir=str(tmp_path / 'out')))
    visualizer = UniversalVisualizer()
    visualizer.dataset_meta = dict(classes=('ant', 'bee'))
    red = torch.tensor([0, 0, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 60)  # BGR
    samples = []
    for label, folder in enumerate(['ant', 'bee']):
        sample = DataSample().set_gt_label(label).set_pred_label(0)
        sample.set_pred_score(torch.tensor([0.75, 0.25]))
        sample.set_field(f'data/val/{folder}/0001.jpg', 'img_path', field_type='metainfo')
        samples.append(sample)
    runner = types.SimpleNamespace(visualizer=visualizer)
    hook.after_test_iter(runner, 0, dict(inputs=[red, red]), samples)
    files = sorted((tmp_path / 'out').iterdir())
    assert [file.name for file in files] == ['ant_0001.png', 'bee_0001.png']
    image = Image.open(files[0])
    assert min(image.size) == 320
    colour = np.array(image.convert('RGB').getpixel((10, 310)))
    assert np.abs(colour - (200, 0, 0)).max() < 8


# ---- what the README says


def test_python_of_the_readme(tmp_path, monkeypatch, official):
    """Its examples run as they stand, with local weights in place of the download."""
    pytest.importorskip('modelindex')
    torch.save(official[0], tmp_path / 'official.pth')
    Image.fromarray(_image(60, 80)).save(tmp_path / 'image.jpg')
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
