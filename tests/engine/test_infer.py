"""``paca-mm infer``: every image of a folder, whatever is wrong with one; names and colours."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import textured
from helpers.tool import run
from paca_mm.analysis.build import build
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.files import distinct_stems
from paca_mm.paths import assets_root

CONFIGS = {name: str(assets_root() / task.shapes_config) for name, task in TASKS.items()}


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """Untrained weights without any meta data, of the small model of a task."""
    folder = tmp_path_factory.mktemp('bare')

    def weights(task):
        file = folder / f'{task}.pth'
        if not file.exists():
            pytest.importorskip(TASKS[task].scope)
            torch.save(build(load_config(CONFIGS[task])).state_dict(), file)
        return file

    return weights


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i, size in enumerate([(96, 96), (60, 80)]):
        Image.fromarray(textured(*size)).save(folder / f'{i}.png')
    return folder


def test_several_images_and_folders_in_one_line(bare, images, tmp_path):
    """As a shell makes of a glob without quotes."""
    single = tmp_path / 'single.png'
    Image.fromarray(textured(64, 64)).save(single)
    out = tmp_path / 'out'
    assert run('infer', single, images, CONFIGS['cls'], bare('cls'), '--out', out) == 0
    records = json.loads((out / 'predictions.json').read_text())
    assert [record['picture'] for record in records] == [
        str(file) for file in (single, images / '0.png', images / '1.png')
    ]


def test_files_of_one_name_are_told_apart():
    files = ['cat/1.png', 'dog/1.png', 'dog/1.jpg', '2.png', '2.jpg', 'x/dog/1.bmp']
    assert distinct_stems(files) == ['1', 'dog_1', 'dog_1_', '2', '2_', 'dog_1__']


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.slow
def test_images_are_drawn_with_classes_of_ones_own_and_no_palette(task, bare, images, tmp_path):
    mine = tmp_path / 'mine.py'
    names = [f'class {i}' for i in range(len(TASKS[task].shapes_classes))]
    base = f"_base_ = __import__('paca_mm.paths').paths.config({CONFIGS[task]!r})\n"
    kind = {'det': 'CocoDataset', 'seg': 'BaseSegDataset', 'cls': 'CustomDataset'}[task]
    change = dict(dataset=dict(type=kind, metainfo=dict(classes=names, palette=None)))
    mine.write_text(f'{base}test_dataloader = {change!r}\n')
    out = tmp_path / 'out'
    assert run('infer', images, mine, bare(task), '--out', out, '--score-thr', '0') == 0
    records = json.loads((out / 'predictions.json').read_text())
    assert [record['drawn'] for record in records] == [str(out / '0.png'), str(out / '1.png')]
    found = records[0].get('instances') or records[0].get('classes') or records[0].get('top')
    assert {row['class'] for row in found} <= set(names)
    drawn = Image.open(out / '0.png')
    assert drawn.width == 96 * 7
    assert np.asarray(drawn).std() > 0


def test_a_bad_image_is_named_at_the_end_and_the_others_are_predicted(
    bare, images, tmp_path, capsys
):
    (images / '00.png').write_bytes(b'')
    (images / 'text.jpg').write_text('no image')
    out = tmp_path / 'out'
    assert run('infer', images, CONFIGS['cls'], bare('cls'), '--out', out) == 1
    records = json.loads((out / 'predictions.json').read_text())
    assert [record['picture'] for record in records] == [str(images / f'{i}.png') for i in (0, 1)]
    said, error = capsys.readouterr()
    assert '[4/4]' in said
    assert f'predictions.json are in {out}' in said
    assert '2 of 4 images could not be read' in error
    assert 'images/00.png is empty' in error
    assert 'images/text.jpg is no image' in error


def test_nothing_but_bad_images(bare, images, tmp_path, capsys):
    for file in images.iterdir():
        file.write_bytes(b'')
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'predictions.json').write_text('[{"of": "an earlier run"}]')
    assert run('infer', images, CONFIGS['cls'], bare('cls'), '--out', out) == 1
    assert json.loads((out / 'predictions.json').read_text()) == []
    said, error = capsys.readouterr()
    assert 'drawn images' not in said
    assert '2 of 2 images could not be read' in error


def test_a_drawing_never_takes_the_place_of_an_image(bare, images, capsys):
    before = (images / '0.png').read_bytes()
    assert run('infer', images, CONFIGS['cls'], bare('cls'), '--out', images) == 2
    assert 'would be written over the images' in capsys.readouterr().err
    assert (images / '0.png').read_bytes() == before


def test_a_users_mistake_ends_before_the_first_image(bare, images, tmp_path, capsys):
    assert run('infer', images, 'no_such.py', bare('cls'), '--out', tmp_path / 'out') == 2
    assert "no config 'no_such.py'" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('ant', 'bee'), palette=[(1, 2, 3), (4, 5, 6)])),
        dict(
            CLASSES=('ant', 'bee'), PALETTE=[[1, 2, 3], [4, 5, 6]]
        ),  # as the hosts' second versions
    ],
)
def test_names_and_colours_of_a_checkpoint_win_over_the_configs(meta):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope

    from paca_mm.engine.drawing import Look
    from paca_mm.engine.predict import dataset_meta

    init_default_scope('mmpretrain')
    cfg = load_config(CONFIGS['cls'])
    look = Look.of(dataset_meta(cfg, dict(meta=meta, state_dict={})))
    assert look == Look(('ant', 'bee'), ((1, 2, 3), (4, 5, 6)))
    assert Look.of(dataset_meta(cfg, {})).classes == TASKS['cls'].shapes_classes
