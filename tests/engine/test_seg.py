"""Segmentation from the command line: train, resume, test, draw; and what a user gets wrong."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tool import job, run

pytest.importorskip('mmseg')

from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

from paca_mm.checkpoint import read_checkpoint
from paca_mm.datasets.checks import check_masks
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.labels import Labelling
from paca_mm.datasets.shapes import SEG_CLASSES, ensure_shapes
from paca_mm.engine.checks import check_config
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

SHAPES = 'configs/seg/paca_head_paca_shapes.py'
ADE = 'configs/seg/paca_head_paca_tiny_ade20k.py'

#: A segmentor that trains in seconds. Its norms are SyncBN, as in every config.
TINY = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        arch=dict(embed_dims=(8, 8, 8, 8), num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4),
        num_clusters=(3, 3, 3, 0),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=8),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
train_cfg = dict(max_iters=4, val_interval=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=4), logger=dict(interval=1))
randomness = dict(seed=3)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the dataset where configs look for it, and a tiny config."""
    folder = tmp_path_factory.mktemp('run')
    ensure_shapes(folder / 'data/shapes', num_train=4, num_val=2)
    (folder / 'tiny.py').write_text(TINY.format(base=str(assets_root() / SHAPES)))
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope='module')
def straight(folder):
    """A run of four iterations without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run('train', 'tiny.py', '--work-dir', 'straight') == 0
    return folder / 'straight'


def scalars(work_dir):
    """What mmengine wrote about the newest run, line by line."""
    file = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))[-1]
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights(file):
    return read_checkpoint(file)['state_dict']


# ---- train, resume, test, draw


@pytest.mark.slow
def test_both_losses_are_in_the_log(straight):
    rows = [row for row in scalars(straight) if 'loss' in row]
    assert len(rows) == 4
    for row in rows:
        both = row['decode.loss_ce'] + row['decode.cluster_loss_ce']
        assert row['loss'] == pytest.approx(both, rel=1e-4)
        assert 0 < row['decode.cluster_loss_ce'] < row['decode.loss_ce'] * 2
        assert 'decode.acc_seg' in row
        assert 'decode.cluster_acc_seg' in row


@pytest.mark.slow
def test_the_config_is_written_to_train_with_sync_bn_and_this_machine_needs_none(straight):
    assert load_config('tiny.py').model.decode_head.norm_cfg.type == 'SyncBN'
    assert 'decode_head.k.2.running_var' in weights(straight / 'iter_4.pth')


@pytest.mark.slow
def test_test_repeats_the_metrics_to_the_digit(straight):
    trained = [row for row in scalars(straight) if 'mIoU' in row][-1]
    dirs = ('--work-dir', 'tested', '--show-dir', 'drawn')
    assert run('test', 'tiny.py', straight / 'iter_4.pth', *dirs) == 0
    (file,) = Path('tested').glob('*/*.json')
    tested = json.loads(file.read_text())
    for name in ('mIoU', 'aAcc', 'mAcc'):
        assert tested[name] == trained[name]
    assert len(list(Path('drawn').rglob('*.png'))) == 2


@pytest.mark.parametrize('step', [1, 2], ids=['', 'behind_a_validation'])
@pytest.mark.slow
def test_a_resumed_run_ends_where_the_straight_one_does(straight, tmp_path, step):
    """Also with no seed in the config: it is in the checkpoint."""
    shutil.copy(straight / f'iter_{step}.pth', tmp_path)
    options = ('--resume', '--cfg-options', 'randomness.seed=None')
    assert run('train', 'tiny.py', '--work-dir', tmp_path, *options) == 0
    rows, whole = ([row for row in scalars(d) if 'loss' in row] for d in (tmp_path, straight))
    assert [row['step'] for row in rows] == [1, 2, 3, 4][step:]
    for key in ('lr', 'loss', 'decode.loss_ce', 'decode.cluster_loss_ce'):
        assert [row[key] for row in rows] == [row[key] for row in whole[step:]], key
    found, expected = weights(tmp_path / 'iter_4.pth'), weights(straight / 'iter_4.pth')
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.slow
def test_sync_bn_trains_on_cpus(folder, tmp_path, processes):
    """Two steps of a job, their validation, and the same validation by tools/test.py."""
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    done = job(processes, assets_root() / 'tools/train.py', 'tiny.py', '--launcher', 'pytorch',
               '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_iters=2',
               cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('(SyncBN needs a GPU)') == 1
    rows = scalars(tmp_path)
    assert [row['step'] for row in rows if 'loss' in row] == [1, 2]
    for row in rows[:2]:
        assert np.isfinite([row['decode.loss_ce'], row['decode.cluster_loss_ce']]).all()
    assert weights(tmp_path / 'iter_2.pth')['decode_head.k.2.num_batches_tracked'] == 2
    test = ('tiny.py', tmp_path / 'iter_2.pth', '--work-dir', tmp_path / 'tested')
    assert run('test', *test) == 0
    (file,) = (tmp_path / 'tested').glob('*/*.json')
    assert json.loads(file.read_text())['mIoU'] == rows[-1]['mIoU']


def test_infer_draws_and_says_what_is_where(straight):
    assert run('infer', 'data/shapes/val', 'tiny.py', straight / 'iter_4.pth', '--out', 'out') == 0
    records = json.loads(Path('out/predictions.json').read_text())
    assert len(records) == 2
    for record in records:
        assert sum(c['share'] for c in record['classes']) == pytest.approx(1)
        assert all(c['class'] == SEG_CLASSES[c['label']] for c in record['classes'])
        drawn = np.asarray(Image.open(record['drawn']))
        assert drawn.shape == (640, 640, 3)  # enlarged, so that the words can be read
        image = np.asarray(Image.open(record['picture']).convert('RGB').resize((640, 640), 0))
        assert (drawn != image).any()


def segmentor(**test_cfg):
    from mmseg.registry import MODELS

    cfg = load_config('tiny.py')
    init_default_scope('mmseg')
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    model.test_cfg.update(test_cfg)
    return model


@pytest.mark.parametrize('stride', [64, 40])
def test_slide_equals_whole_where_one_window_holds_the_image(stride):
    torch.manual_seed(1)
    model = segmentor()
    x = torch.randn(2, 3, 64, 64)
    metas = [dict(ori_shape=(64, 64), img_shape=(64, 64))] * 2
    with torch.no_grad():
        whole = model.whole_inference(x, metas)
        model.test_cfg.update(mode='slide', crop_size=(64, 64), stride=(stride, stride))
        slide = model.slide_inference(x, metas)
    torch.testing.assert_close(slide, whole)


def test_slide_over_equal_windows_repeats_each():
    """Two windows with the same content, side by side, each get what it gets alone."""
    torch.manual_seed(1)
    model = segmentor(mode='slide', crop_size=(64, 64), stride=(64, 64))
    x = torch.randn(1, 3, 64, 64)
    metas = [dict(ori_shape=(64, 128), img_shape=(64, 128))]
    with torch.no_grad():
        slide = model.slide_inference(torch.cat([x, x], -1), metas)
        alone = model.whole_inference(x, [dict(ori_shape=(64, 64), img_shape=(64, 64))])
    torch.testing.assert_close(slide, torch.cat([alone, alone], -1))


# ---- wrong on purpose


def fails(capfd, name, *argv):
    """Run a tool that must fail; returns its message."""
    assert run(name, *argv) == 2
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    return err.rpartition('error: ')[2]


def on(root, *more):
    roots = (f'{p}_dataloader.dataset.data_root={root}' for p in ('train', 'val', 'test'))
    return ['--cfg-options', *roots, *more]


@pytest.fixture
def copy(tmp_path):
    """A dataset to spoil."""
    return ensure_shapes(tmp_path / 'copy', num_train=4, num_val=2)


def repaint(mask, change):
    labels = np.asarray(Image.open(mask)).copy()
    change(labels)
    Image.fromarray(labels).save(mask)


def all_masks(root, change):
    for mask in (root / 'masks').rglob('*.png'):
        repaint(mask, change)


def test_ade20k_is_missing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    message = fails(capfd, 'train', ADE)
    assert f'looked for: {tmp_path}/data/ade/ADEChallengeData2016/images/training' in message
    assert 'ln -s /path/to/your/ADEChallengeData2016 data/ade/ADEChallengeData2016' in message
    assert '--shapes' in message
    assert SHAPES in message


def test_the_mask_folder_has_another_name(copy, capfd):
    option = 'train_dataloader.dataset.data_prefix.seg_map_path=labels/train'
    message = fails(capfd, 'train', 'tiny.py', *on(copy, option))
    assert (
        f'the mask folder of train_dataloader is missing.\n  looked for: {copy}/labels' in message
    )
    assert ', masks, ' in message.partition(f'{copy} holds: ')[2]
    assert 'correct train_dataloader.dataset.data_prefix.seg_map_path' in message


def test_a_mask_with_a_class_that_the_head_does_not_have(copy, capfd):
    mask = copy / 'masks/train/000003.png'
    repaint(mask, lambda labels: labels[:2].fill(8))
    message = fails(capfd, 'train', 'tiny.py', *on(copy))
    assert f'{mask} holds the class number 8, which the model does not have' in message
    assert 'Expected: 1 to 7 for the 7 classes, 0 or 255' in message
    assert 'num_classes in each head' in message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.slow
def test_what_the_check_before_training_does_not_see_is_named_when_it_is_read(
    copy, capfd, monkeypatch, workers
):
    mask = copy / 'masks/train/000003.png'
    repaint(mask, lambda labels: labels[:2].fill(8))
    monkeypatch.setattr(Glance, 'most_masks', 0)
    options = (f'train_dataloader.num_workers={workers}', 'train_dataloader.batch_size=4')
    message = fails(capfd, 'train', 'tiny.py', *on(copy, *options))
    assert message.startswith(f'{mask} holds the class number 8, which the model does not have')


def test_reduce_zero_label_is_needed(copy, capfd):
    options = (f'{p}_dataloader.dataset.reduce_zero_label=False' for p in ('train', 'val', 'test'))
    message = fails(capfd, 'train', 'tiny.py', *on(copy, *options))
    assert 'holds the class number 7' in message
    assert 'set reduce_zero_label=True in each dataset' in message


def test_reduce_zero_label_is_too_much(copy, capfd):
    def from_zero(labels):
        labels -= 1
        labels[0, :7] = range(7)  # four images need not hold every class

    all_masks(copy, from_zero)
    message = fails(capfd, 'train', 'tiny.py', *on(copy))
    assert 'hold the numbers 0 to 6, one for each of the 7 classes' in message
    assert 'reduce_zero_label=False in each dataset' in message


@pytest.mark.parametrize(
    ('reduce_zero_label', 'white', 'message'),
    [
        (False, 255, 'hold the numbers 0, 255 and no others, of which 255 means "no label"'),
        (True, 1, 'hold the numbers 0, 1 and no others, of which 0 means "no label"'),
    ],
    ids=['black_and_white', 'one_class'],
)
def test_masks_of_one_class(copy, capfd, reduce_zero_label, white, message):
    def paint(labels):
        labels[:] = np.where(labels > 1, white, 0)

    all_masks(copy, paint)
    option = f'train_dataloader.dataset.reduce_zero_label={reduce_zero_label}'
    found = fails(capfd, 'train', 'tiny.py', *on(copy, option))
    assert message in found
    assert 'leaves 1 of the 7 classes' in found
    assert 'In black and white masks, 1 instead of 255' in found


def test_a_doubt_of_the_sample_is_settled_by_all_masks(copy, monkeypatch):
    """A class may be in few masks: that the sample does not hold it shows nothing."""
    files = sorted((copy / 'train').iterdir())
    pairs = [(str(file), str(copy / 'masks/train' / file.name)) for file in files]
    for _, mask in pairs:
        repaint(mask, lambda labels: labels.__imod__(3))
    labelling = Labelling(3, reduce_zero_label=True)
    monkeypatch.setattr(Glance, 'most_masks', 1)
    (fault,) = check_masks(pairs, labelling, Glance(), every_class=True)
    assert 'hold the numbers 0 to 2' in str(fault)
    for last in (0, 3):  # whichever one the sample is
        repaint(pairs[last][1], lambda labels: labels[0].fill(3))
    assert [*check_masks(pairs, labelling, Glance(), every_class=True)] == []


@pytest.mark.slow
def test_no_label_is_no_mistake(copy):
    """0 and 255 mean "no label" under reduce_zero_label; not every class needs to occur."""

    def void(labels):
        labels[labels > 3] = 1
        labels[0, :9] = 0
        labels[1, :9] = 255

    all_masks(copy, void)
    assert (
        run('train', 'tiny.py', '--work-dir', copy / 'out', *on(copy, 'train_cfg.max_iters=1')) == 0
    )


def test_image_and_mask_of_different_sizes(copy, capfd):
    mask = copy / 'masks/train/000002.png'
    Image.open(mask).crop((0, 0, 100, 128)).save(mask)
    message = fails(capfd, 'train', 'tiny.py', *on(copy))
    assert f'{mask} has 100 x 128 pixels, but its image {copy}/train/000002.png has 128 x 128' in (
        message
    )


@pytest.mark.slow
def test_different_sizes_are_named_when_they_are_read_too(copy, capfd, monkeypatch):
    mask = copy / 'masks/train/000002.png'
    Image.open(mask).crop((0, 0, 100, 128)).save(mask)
    monkeypatch.setattr(Glance, 'most_masks', 0)
    message = fails(capfd, 'train', 'tiny.py', *on(copy, 'train_dataloader.batch_size=4'))
    assert f'{mask} has 100 x 128 pixels' in message


def test_a_turned_image_is_as_large_as_it_is_read(copy):
    """A portrait may be stored as a landscape with an orientation, by which OpenCV turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image, mask = copy / 'a.jpg', copy / 'a.png'
    Image.new('RGB', (40, 30)).save(image, exif=exif)
    Image.new('L', (30, 40)).save(mask)
    assert [*check_masks([(str(image), str(mask))], Labelling(2), Glance(), False)] == []


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda mask: mask.unlink(), 'names masks that are not there: 1 of 2'),
        (lambda mask: mask.write_bytes(mask.read_bytes()[:100]), 'is torn'),
        (lambda mask: Image.open(mask).convert('RGB').save(mask), 'has 3 channels: a mask has one'),
    ],
    ids=['missing', 'torn', 'colours'],
)
def test_masks_that_are_none(copy, capfd, spoil, message):
    mask = copy / 'masks/val/000001.png'
    spoil(mask)
    found = fails(capfd, 'train', 'tiny.py', *on(copy))
    assert message in found
    assert mask.name in found
    assert str(mask.parent) in found


def test_no_image_with_the_suffix(copy, capfd):
    message = fails(
        capfd, 'train', 'tiny.py', *on(copy, 'train_dataloader.dataset.img_suffix=.jpg')
    )
    assert f"none in {copy}/train ends in '.jpg'" in message
    assert 'img_suffix=...' in message


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('train_dataloader.dataset.type=ADE20KDatset',
         "type='ADE20KDatset', which is not in the mmseg::dataset registry"),
        ('model.decode_head.type=UPerHaed',
         "type='UPerHaed', which is not in the mmseg::model registry"),
        ('model.decode_head.type=paca_mm.PaCaHaed', "type='paca_mm.PaCaHaed', which is not in the"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_type_that_nobody_knows(capfd, option, message):
    found = fails(capfd, 'train', 'tiny.py', '--work-dir', 'typed', '--cfg-options', option)
    assert message in found
    assert 'correct its spelling' in found


@pytest.mark.parametrize(
    'words',
    [('train', SHAPES), ('test', SHAPES, __file__), ('infer', 'data/shapes/val', SHAPES, __file__)],
    ids=lambda words: words[0],
)
def test_without_mmseg_the_tools_say_what_to_install(words, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    message = fails(capfd, *words)
    assert message.startswith("this config needs the package 'mmseg', which cannot be imported")
    assert 'to fix it: pip install --no-build-isolation' in message


def test_classes_that_the_dataset_type_does_not_know(copy, capfd):
    message = fails(
        capfd, 'train', 'tiny.py', *on(copy, 'train_dataloader.dataset.type=ADE20KDataset')
    )
    assert "for classes of your own: type='BaseSegDataset'" in message


def test_another_class_count_in_the_head(capfd):
    message = fails(capfd, 'train', 'tiny.py', '--cfg-options', 'model.decode_head.num_classes=150')
    assert 'PaCaHead has num_classes=150' in message
    assert 'has 7 classes (background' in message


@pytest.mark.parametrize(
    ('config', 'option', 'message'),
    [
        ('paca_head_paca_small', 'model.backbone.arch=base', 'decode_head (PaCaHead) has '
         'in_channels=[96, 192, 320, 384], but the levels in_index=[0, 1, 2, 3] of the backbone '
         "(arch='base') have [96, 192, 384, 512] channels"),
        ('upernet_paca_small', 'model.decode_head.in_channels=[96,192,320,512]',
         'to fix it: in_channels=[96, 192, 320, 384] in decode_head'),
        ('upernet_paca_small', 'model.auxiliary_head.in_index=1',
         'auxiliary_head (FCNHead) has in_channels=320, but the levels in_index=1'),
    ],
)  # fmt: skip
def test_channels_that_do_not_fit_the_backbone(capfd, config, option, message):
    path = f'configs/seg/{config}_ade20k.py'
    assert message in fails(capfd, 'train', path, '--shapes', '--cfg-options', option)


def test_levels_that_the_check_does_not_know_are_named_by_the_head():
    model = segmentor()
    model.decode_head.in_channels = [8, 8, 8, 9]
    with pytest.raises(UserError, match=r'set in_channels=\[8, 8, 8, 8\] in the head'):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.slow
def test_training_from_a_checkpoint_of_other_classes_says_what_was_reset(straight, capfd):
    state = dict(weights(straight / 'iter_4.pth'))
    for key in ('conv_seg.weight', 'conv_seg.bias', 'clustering.1.weight', 'clustering.1.bias'):
        value = state[f'decode_head.{key}']
        state[f'decode_head.{key}'] = value.new_zeros(21, *value.shape[1:])
    torch.save({'state_dict': state}, 'other.pth')
    options = ('--cfg-options', 'load_from=other.pth', 'train_cfg.max_iters=1')
    assert run('train', 'tiny.py', '--work-dir', 'reset', *options) == 0
    log = capfd.readouterr()
    log = log.out + log.err
    assert '4 start again, because their shape differs' in log
    assert 'decode_head.conv_seg.weight: (21, 8, 1, 1) in the file, (7, 8, 1, 1) here' in log

    message = fails(capfd, 'test', 'tiny.py', 'other.pth', '--work-dir', 'refused')
    assert 'other.pth is not for this model' in message
    assert 'another class count shows as another shape of the last layers' in message


# ---- the README's worked example


@pytest.mark.slow
def test_training_on_ones_own_data_as_the_readme_says(tmp_path, capfd):
    """Its config as it stands, but for the size of the model."""
    readme = (assets_root() / 'configs/seg/README.md').read_text()
    text = readme.partition('## Train on your own data')[2].partition('```python\n')[2]
    text = text.partition('```')[0]
    base = str(assets_root() / 'configs/seg/paca_head_paca_small_ade20k.py')
    assert "'./paca_head_paca_small_ade20k.py'" in text
    (tmp_path / 'my_data.py').write_text(
        text.replace('./paca_head_paca_small_ade20k.py', base).replace(
            'data/my_data/', f'{tmp_path}/data/my_data/'
        )
    )
    rng = np.random.RandomState(0)
    for split in ('train', 'val'):
        for kind, shape, suffix in (('images', (40, 60, 3), 'jpg'), ('masks', (40, 60), 'png')):
            folder = tmp_path / 'data/my_data' / kind / split
            folder.mkdir(parents=True)
            pixels = rng.randint(0, 256 if kind == 'images' else 3, shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f'street_1.{suffix}')
    cfg = load_config(str(tmp_path / 'my_data.py'))
    check_config(cfg, ['train', 'val'])
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['paca_mm.CheckLabels'].num_classes == 3
    tiny = {k: v for k, v in load_config('tiny.py').model.backbone.items() if k != 'init_cfg'}
    cfg.merge_from_dict(
        {
            'model.backbone': {'_delete_': True, **tiny},
            'model.decode_head': dict(in_channels=[8] * 4, channels=8),
            'train_cfg': dict(max_iters=1, val_interval=1),
            'work_dir': str(tmp_path / 'out'),
        }
    )
    for step in cfg.train_dataloader.dataset.pipeline:  # an eighth of the image's size
        step.update({k: (64, 64) for k in ('size', 'crop_size') if k in step})
        step.update({k: (256, 64) for k in ('scale',) if k in step})
    cfg.val_dataloader.dataset.pipeline[1].scale = (256, 64)
    cfg.dump(str(tmp_path / 'small.py'))
    assert run('train', tmp_path / 'small.py') == 0
    assert (tmp_path / 'out/iter_1.pth').is_file()
    assert 'mIoU' in capfd.readouterr().out
