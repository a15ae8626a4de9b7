"""A user's mistake costs one clear message with the cure and exit code 2, before work is lost."""

import json
import os
import subprocess
import sys

import pytest
import torch

from helpers.tool import run

pytest.importorskip('mmdet')

from paca_mm.datasets.coco import look_into
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.paths import assets_root

COCO = 'configs/det/mask_rcnn_paca.py'
SHAPES = 'configs/det/mask_rcnn_paca_shapes.py'


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return ensure_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=6, num_val=2)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capfd, name, *argv):
    """Run a tool that must fail; returns its message."""
    assert run(name, *argv) == 2
    message = capfd.readouterr().err.rpartition('error: ')[2]
    assert message
    assert 'Traceback' not in message
    return message


def on(root):
    """Point the shapes config at another copy of the dataset."""
    return [
        '--cfg-options',
        *(f'{p}_dataloader.dataset.data_root={root}' for p in ('train', 'val', 'test')),
        f'val_evaluator.ann_file={root}/annotations/instances_val.json',
        f'test_evaluator.ann_file={root}/annotations/instances_val.json',
    ]


@pytest.mark.slow
def test_the_exit_code_and_no_traceback_of_the_real_command(here):
    tool = assets_root() / 'tools/train.py'
    done = subprocess.run([sys.executable, tool, COCO], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert done.stderr.strip().startswith('error: ')


def test_coco_is_missing(here, capfd):
    message = fails(capfd, 'train', COCO)
    assert f'looked for: {here}/data/coco/annotations/instances_train2017.json' in message
    assert 'ln -s /path/to/your/coco data/coco' in message
    assert '--shapes' in message
    assert SHAPES in message


def test_the_link_to_coco_is_broken(here, capfd):
    (here / 'data').mkdir()
    (here / 'data/coco').symlink_to('/nowhere/coco')
    assert 'is a link to /nowhere/coco, which does not exist' in fails(capfd, 'train', COCO)


def test_the_images_are_missing(here, shapes, capfd):
    copy = here / 'copy'
    copy.mkdir()
    (copy / 'annotations').symlink_to(shapes / 'annotations')
    message = fails(capfd, 'train', SHAPES, *on(copy))
    assert f'image folder of train_dataloader is missing.\n  looked for: {copy}/train' in message
    assert f'{copy} holds: annotations\n' in message
    assert 'correct train_dataloader.dataset.data_prefix.img (or its data_root)' in message


def test_another_class_count_in_the_head(here, shapes, capfd):
    message = fails(capfd, 'train', SHAPES, *on(shapes), 'model.roi_head.mask_head.num_classes=80')
    assert 'FCNMaskHead has num_classes=80' in message
    assert 'has 6 classes (crescent' in message


def test_other_classes_in_the_annotation_file(here, shapes, capfd):
    message = fails(capfd, 'train', SHAPES, *on(shapes), 'train_dataloader.dataset.metainfo=None')
    assert 'annotates 6 classes (crescent' in message
    assert 'expects 80' in message
    assert "metainfo=dict(classes=('crescent', 'cross'" in message
    assert 'num_classes=6' in message


@pytest.mark.parametrize('content', ['', '{"images": [', '{"images": []}'])
def test_a_torn_annotation_file(here, shapes, capfd, content):
    copy = here / 'copy'
    (copy / 'annotations').mkdir(parents=True)
    (copy / 'annotations/instances_train.json').write_text(content)
    (copy / 'train').symlink_to(shapes / 'train')
    assert 'is no COCO annotation file, or a torn one' in fails(capfd, 'train', SHAPES, *on(copy))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('arch=smal', "did you mean 'small'"),
        ('clustering=kmeans', "clustering='kmeans' is unknown"),
        ('num_clusters=[9,9]', 'has 2 numbers, but the arch has 4 stages'),
    ],
)
def test_wrong_backbone_arguments(here, shapes, capfd, option, message):
    assert message in fails(capfd, 'train', SHAPES, *on(shapes), f'model.backbone.{option}')


def pretrained(file):
    init = f'dict(type="Pretrained",checkpoint="{file}")'
    return (
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={file}',
        init,
    )


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('missing', 'the weights that init_cfg.checkpoint names do not exist'),
        ('empty', 'is empty (0 bytes)'),
        ('torn', 'is torn'),
        ('hostile', 'would call posix.system'),
        ('other', "looks like arch='tiny'"),
        ('url', 'cannot be downloaded'),
    ],
)
@pytest.mark.slow
def test_wrong_pretrained_files(here, shapes, capfd, monkeypatch, kind, message):
    file = here / 'weights.pth'
    if kind == 'empty':
        file.touch()
    elif kind == 'torn':
        torch.save({'x': torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:3000])
    elif kind == 'hostile':
        torch.save({'x': torch.zeros(1), 'y': _Hostile()}, file)
    elif kind == 'other':
        from paca_mm.models import PaCaViT

        torch.save(PaCaViT('tiny').state_dict(), file)
    elif kind == 'url':
        monkeypatch.setenv('TORCH_HOME', str(here))
        file = 'http://localhost:9/weights.pth'
    _, checkpoint, _ = pretrained(file)
    err = fails(
        capfd, 'train', SHAPES, *on(shapes), 'model.backbone.init_cfg.type=Pretrained', checkpoint
    )
    assert message in err
    assert not (here / 'was_run').exists()


class _Hostile:
    def __reduce__(self):
        return os.system, ('touch was_run',)


def test_a_corrupt_image_is_found_before_training(here, capfd):
    root = ensure_shapes(here / 'copy', num_train=4, num_val=2)
    broken = root / 'train/000003.png'
    broken.write_bytes(broken.read_bytes()[:5000])
    message = fails(capfd, 'train', SHAPES, *on(root))
    assert f'{broken} is torn (5000 bytes' in message


@pytest.mark.slow
def test_an_image_that_becomes_corrupt_is_named_too(here, shapes, capfd, monkeypatch):
    """The check before training looks at a sample; the rest is named when it is read."""
    root = ensure_shapes(here / 'copy', num_train=4, num_val=2)
    broken = root / 'train/000003.png'
    broken.write_bytes(b'')
    monkeypatch.setattr(Glance, 'most_images', 0)
    options = [*on(root), 'train_dataloader.num_workers=0',
               'train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1']  # fmt: skip
    assert run('train', SHAPES, *options) == 0  # another image took its place
    assert f'skipped:  1 files that cannot be read: {broken} is empty' in capfd.readouterr().out
    message = fails(capfd, 'train', SHAPES, *options, 'max_skipped=0')
    assert f'max_skipped=0 of them may be passed over:\n  {broken} is empty (0 bytes)' in message
    assert 'check' in message


def test_a_config_that_does_not_exist(here, capfd):
    message = fails(capfd, 'train', 'configs/det/mask_rcnn_pacca.py')
    assert "no config 'configs/det/mask_rcnn_pacca.py'" in message
    assert 'Did you mean:\n  configs/det/mask_rcnn_paca.py' in message


def test_a_config_with_a_syntax_error(here, capfd):
    (here / 'mine.py').write_text('model = dict(')
    assert 'cannot be read as a config' in fails(capfd, 'train', 'mine.py')


def test_testing_a_checkpoint_of_another_model(here, shapes, capfd):
    from paca_mm.models import PaCaViT

    state = {f'backbone.{k}': v for k, v in PaCaViT('tiny').state_dict().items()}
    torch.save(state, here / 'tiny.pth')
    message = fails(capfd, 'test', SHAPES, here / 'tiny.pth', *on(shapes))
    assert "tiny.pth is not for this model. Its backbone looks like arch='tiny'" in message
    assert 'missing in the file: neck.' in message


def test_testing_a_missing_checkpoint(here, shapes, capfd):
    message = fails(capfd, 'test', SHAPES, here / 'x.pth', *on(shapes))
    assert f'the weights that the command line names do not exist: {here}/x.pth' in message


@pytest.mark.slow
def test_resuming_from_bare_weights(here, shapes, capfd):
    torch.save({'state_dict': {'x': torch.zeros(1)}}, here / 'bare.pth')
    message = fails(capfd, 'train', SHAPES, '--resume', here / 'bare.pth', *on(shapes))
    assert 'cannot be resumed: it holds weights only' in message


def test_no_images_to_predict(here, capfd):
    assert 'no images in' in fails(capfd, 'infer', here, SHAPES, 'x.pth')


def test_amp_without_a_gpu(here, shapes, capfd):
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    assert '--amp needs a GPU' in fails(capfd, 'train', SHAPES, '--amp', *on(shapes))


def test_annotations_of_the_embedded_dataset_are_read_as_any_others(shapes):
    file = shapes / 'annotations/instances_val.json'
    expected = tuple(c['name'] for c in json.loads(file.read_text())['categories'])
    found = look_into(str(file))
    assert found.classes == expected
    assert found.tally.counts == {}
    assert found.usable == found.annotations > 0
