"""Classification: what is checked before a run, what is drawn after it."""

import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from helpers import golden
from helpers.images import textured
from helpers.rows import ROWS

mmpretrain = pytest.importorskip('mmpretrain')

from mmengine.registry import (  # noqa: E402
    HOOKS,
    RUNNERS,
    DefaultScope,
    init_default_scope,
)
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from mmpretrain.visualization import UniversalVisualizer  # noqa: E402

from paca_mm.engine.checks import check_config  # noqa: E402
from paca_mm.engine.config import load_config  # noqa: E402
from paca_mm.engine.distributed import prepare_cpu  # noqa: E402
from paca_mm.engine.loading import naming_files  # noqa: E402
from paca_mm.engine.predict import Predictor  # noqa: E402
from paca_mm.errors import UserError  # noqa: E402

IN1K = {row: f'configs/cls/paca_{row}_in1k.py' for row in ROWS}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        init_default_scope('mmpretrain')
        yield


def build(config, **kwargs):
    return MODELS.build(load_config(str(config), **kwargs).model)


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('cls_tiny_conv')
    return golden.state_dict(meta['shapes']), meta['input'], torch.from_numpy(answers['logits'])


# ---- data that is wrong


def _folders(root, classes, images=1):
    for split in ('train', 'val'):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                Image.fromarray(textured(8, 8, i)).save(root / split / name / f'{i}.png')


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


@pytest.mark.slow
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
    Image.fromarray(textured(8, 8)).save(tmp_path / 'train' / 'a.png')
    with pytest.raises(UserError, match='no class folders, but 1 images lie in it directly'):
        check_config(_user_config(tmp_path, 2), ['train'])


def test_a_flat_folder_with_imagenets_own_list_is_fine(tmp_path):
    """What OpenMMLab's scripts prepare: val/ flat, and meta/val.txt with the labels."""
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    Image.fromarray(textured(8, 8)).save(tmp_path / 'val' / 'a.png')
    (tmp_path / 'meta' / 'val.txt').write_text('a.png 3\n')
    cfg = load_config(IN1K['tiny'], options={'val_dataloader.dataset.data_root': f'{tmp_path}/'})
    check_config(cfg, ['val'])
    assert DATASETS.build(cfg.val_dataloader.dataset)[0]['data_samples'].gt_label.item() == 3


def test_the_class_count_must_be_the_heads(tmp_path):
    _folders(tmp_path, ['ant', 'bee', 'cat'])
    with pytest.raises(UserError, match=r'(?s)num_classes=2.* has 3 classes \(ant, bee, cat\)'):
        check_config(_user_config(tmp_path, 2), ['train'])
    check_config(_user_config(tmp_path, 3), ['train'])


@pytest.mark.parametrize(('highest', 'deep'), [(40_000, True), (200, False)])
def test_images_of_16_bits_are_white_to_pillow(tmp_path, highest, deep):
    _folders(tmp_path, ['ant', 'bee'])
    pixels = np.linspace(0, highest, 400 * 400).reshape(400, 400).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / 'train/ant/0.png')
    cfg = _user_config(tmp_path, 2)
    (loader,) = (s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'LoadImageFromFile')
    loader.imdecode_backend = 'pillow'
    if deep:
        with pytest.raises(
            UserError, match=r'(?s)more than 8 bits a pixel: 1 of the 2.*ant/0\.png'
        ):
            check_config(cfg, ['train'])
    loader.imdecode_backend = 'cv2' if deep else 'pillow'
    check_config(cfg, ['train'])


def test_images_smaller_than_the_crop(tmp_path):
    """Only where the crop is taken of the image as it is."""
    _folders(tmp_path, ['ant', 'bee'])
    cfg = _user_config(tmp_path, 2)
    check_config(cfg, ['train', 'val'])  # resized first
    crop = dict(type='RandomCrop', crop_size=16)
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), crop]
    with pytest.raises(UserError, match=r'(?s)smaller than the crop of 16 x 16: 2 of 2.*8 x 8'):
        check_config(cfg, ['train'])
    cfg.train_dataloader.dataset.pipeline[1].pad_if_needed = True
    check_config(cfg, ['train'])


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
        ('b.png 3', r'names images that are not there: 1 of 1'),
    ],
)
def test_a_wrong_list_of_labels(tmp_path, line, message):
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    Image.fromarray(textured(8, 8)).save(tmp_path / 'val' / 'a.png')
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
    Image.fromarray(textured(60, 80)).save(image)
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
    image = textured(16, 16)
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
    assert image.size[0] == 60 * 11  # enlarged, the words below it
    assert image.size[1] > 40 * 11
    colour = np.array(image.convert('RGB').getpixel((10, 40 * 11 - 10)))
    assert np.abs(colour - (200, 0, 0)).max() < 8
