"""The embedded dataset: the same pixels everywhere, annotations exact to the pixel, made once."""

import colorsys
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from paca_mm.datasets.shapes import (
    CLASSES,
    SEG_CLASSES,
    ShapesSpec,
    ensure_shapes,
    make_shapes,
    outlines,
    polygons,
    read_info,
    scenes,
    store,
    textures,
)
from paca_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = {'seed': 7, 'num_train': 8, 'num_val': 3, 'size': 64}
# Of every name, pixel and annotation of the TINY dataset. If a change moves it on purpose, raise
# `RECIPE`, and existing datasets ask to be made again.
GOLDEN = 'a3cc9e99449ca6011a15769909d8230198a5fb5cad59ed8a8c519602763c8e43'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes') / 'tiny', **TINY)


@pytest.fixture
def copy(tiny, tmp_path):
    """A dataset of its own for a test that breaks it."""
    return Path(shutil.copytree(tiny, tmp_path / 'copy'))


@pytest.fixture(scope='module')
def some_scenes():
    return [scenes.make_scene(np.random.RandomState([1, number]), 128) for number in range(30)]


def pixels_of(path):
    with Image.open(path) as image:
        return f'{image.mode} {image.size}', image.tobytes()


def tree_digest(folder):
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob('*') if p.suffix in ('.png', '.json')):
        kind, content = pixels_of(path) if path.suffix == '.png' else ('', path.read_bytes())
        digest.update(f'{path.relative_to(folder).as_posix()} {kind} {len(content)}\n'.encode())
        digest.update(content)
    return digest.hexdigest()


def load_coco(folder, split, capsys):
    coco = COCO(str(folder / 'annotations' / f'instances_{split}.json'))
    capsys.readouterr()  # it prints its progress
    return coco


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith('.part')]


# The same pixels everywhere -----------------------------------------------------------------------


def test_every_pixel_is_decided_by_the_seed(tiny, tmp_path):
    assert tree_digest(tiny) == GOLDEN
    assert tree_digest(make_shapes(tmp_path / 'again', **TINY)) == GOLDEN
    assert tree_digest(make_shapes(tmp_path / 'other', **{**TINY, 'seed': 8})) != GOLDEN


def test_an_image_does_not_depend_on_the_counts(tiny, tmp_path):
    fewer = make_shapes(tmp_path / 'fewer', **{**TINY, 'num_train': 2})
    for name in ('train/000002.png', 'val/000003.png', 'imagefolder/train/star/000001.png'):
        assert pixels_of(fewer / name) == pixels_of(tiny / name)


def test_the_table_of_cosines_is_far_from_ties():
    for degrees in range(outlines.TURN):
        exact = outlines.ONE * math.cos(math.radians(degrees))
        assert abs(exact - outlines.cos(degrees)) < 0.5 - 1e-4


# Outlines and polygons ----------------------------------------------------------------------------


@pytest.mark.parametrize('label', range(len(CLASSES)), ids=CLASSES)
def test_a_filled_outline_has_the_area_of_its_polygon(label):
    for degrees in (0, 33, 271):
        points = outlines.place(outlines.outline(label), (64, 60), 90, degrees, stretch=85)
        filled = outlines.fill(points, 128).sum() / outlines.FULL
        assert filled == pytest.approx(outlines.area(points), rel=0.02)


def test_fill_agrees_with_a_point_by_point_even_odd_rule():
    points = outlines.place(outlines.outline(CLASSES.index('star')), (3, 9), 20, 17)
    side = 16 * outlines.FINE
    expected = np.zeros((side, side), dtype=int)
    for row, column in np.ndindex(side, side):
        x, y = (v * outlines.SUB + outlines.SUB / 2 for v in (column, row))
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                expected[row, column] ^= 1
    expected = expected.reshape(16, 2, 16, 2).sum(axis=(1, 3))
    assert expected.any()
    assert np.array_equal(outlines.fill(points, 16), expected)


def test_traced_loops_give_back_any_mask():
    rng = np.random.RandomState(3)
    for density in (0.1, 0.5, 0.8):
        mask = rng.rand(13, 17) < density  # holes, corner contacts and the border included
        loops = polygons.trace(mask)
        decoded = np.zeros_like(mask)
        for loop in loops:
            flat = [float(value) for corner in loop for value in corner]
            rle = coco_mask.frPyObjects([flat], *mask.shape)[0]
            decoded ^= coco_mask.decode(rle).astype(bool)
        assert np.array_equal(decoded, mask)
        assert sum(map(polygons.signed_area, loops)) == mask.sum()


def test_trace_knows_holes_and_corner_contacts():
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert sorted(map(polygons.signed_area, polygons.trace(ring))) == [-1, 9]
    corners = np.eye(2, dtype=bool)
    assert polygons.trace(corners) == [
        [(1, 0), (1, 1), (0, 1), (0, 0)],
        [(2, 1), (2, 2), (1, 2), (1, 1)],
    ]
    assert polygons.trace(np.zeros((2, 2), dtype=bool)) == []


# COCO, masks and ImageFolder ----------------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_are_exact_to_the_pixel(tiny, split, capsys):
    coco = load_coco(tiny, split, capsys)
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert coco.getCatIds() == list(range(1, len(CLASSES) + 1))
    assert coco.getImgIds() == list(range(1, TINY[f'num_{split}'] + 1))
    for image in coco.imgs.values():
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        assert 1 <= len(annotations) <= scenes.MAX_SHAPES
        with Image.open(tiny / split / image['file_name']) as stored:
            assert stored.size == (image['width'], image['height']) == (64, 64)
        labels = np.ones((64, 64), dtype=np.uint8)
        claimed = np.zeros((64, 64), dtype=int)
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            ys, xs = np.nonzero(mask)
            assert annotation['area'] == len(ys)
            width, height = xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()
            assert annotation['bbox'] == [xs.min(), ys.min(), width, height]
            assert annotation['iscrowd'] == 0
            assert all(len(part) >= 8 for part in annotation['segmentation'])
            assert all(
                type(value) is float for part in annotation['segmentation'] for value in part
            )
            labels[mask] = SEG_CLASSES.index(CLASSES[annotation['category_id'] - 1]) + 1
            claimed += mask
        assert claimed.max() == 1  # the visible parts do not overlap
        with Image.open(tiny / 'masks' / split / image['file_name']) as stored:
            assert stored.mode == 'L'
            assert np.array_equal(np.asarray(stored), labels)


def test_polygons_decode_to_what_is_visible(some_scenes):
    for scene in some_scenes:
        height, width = scene.image.shape[:2]
        for instance in scene.instances:
            flat = [[float(v) for corner in loop for v in corner] for loop in instance.loops]
            rle = coco_mask.merge(coco_mask.frPyObjects(flat, height, width))
            assert np.array_equal(coco_mask.decode(rle).astype(bool), instance.visible)


def test_imagefolder_has_every_class_in_equal_counts(tiny):
    for split, count in (('train', 4), ('val', 1)):
        folder = tiny / 'imagefolder' / split
        assert sorted(p.name for p in folder.iterdir()) == list(CLASSES)
        for name in CLASSES:
            images = sorted((folder / name).iterdir())
            assert [p.name for p in images] == [f'{i:06d}.png' for i in range(1, count + 1)]
            with Image.open(images[0]) as image:
                assert image.size == (32, 32)
                assert image.mode == 'RGB'


def test_shapes_json_tells_what_is_there(tiny, capsys):
    info = read_info(tiny)
    assert info == json.loads((tiny / 'shapes.json').read_bytes())
    assert {name: info[name] for name in TINY} == TINY
    assert tuple(info['classes']) == CLASSES
    assert tuple(info['seg_classes']) == SEG_CLASSES
    for split in ('train', 'val'):
        assert info['instances'][split] == len(load_coco(tiny, split, capsys).anns)
    assert all(len(list((tiny / name).glob('*.png'))) == n for name, n in info['folders'].items())


# Hard enough, easy enough -------------------------------------------------------------------------


def test_sizes_span_a_factor_of_four(some_scenes):
    assert max(scenes.DIAMETERS) == 4 * min(scenes.DIAMETERS)
    diameters = [i.diameter for scene in some_scenes for i in scene.instances]
    assert max(diameters) >= 3.5 * min(diameters)


def test_shapes_overlap_but_stay_visible(some_scenes):
    hidden = [i.hidden for scene in some_scenes for i in scene.instances]
    assert max(hidden) <= 100 - scenes.MIN_VISIBLE_PERCENT
    assert 0.1 < np.mean(np.array(hidden) > 15) < 0.6
    assert {len(scene.instances) for scene in some_scenes} == set(range(1, scenes.MAX_SHAPES + 1))


def test_hue_helps_but_does_not_decide():
    owners = {}
    for label in range(len(CLASSES)):
        bands = textures.hue_bands(label)
        assert len(set(bands)) == 3
        for band in bands:
            owners.setdefault(band, []).append(label)
    assert sorted(map(len, owners.values())) == [1] * 6 + [2] * 6


@pytest.mark.parametrize('label', range(len(CLASSES)), ids=CLASSES)
def test_a_class_uses_all_its_hues(label):
    rng, seen = np.random.RandomState(0), set()
    for _ in range(40):
        for colour in textures.shape_colours(rng, label):
            hue = colorsys.rgb_to_hsv(*colour / 255)[0] * textures.HUES
            away = {
                min(abs(hue - band), textures.HUES - abs(hue - band)): band
                for band in textures.hue_bands(label)
            }
            assert min(away) < textures.HUES / 24  # within its band
            seen.add(away[min(away)])
    assert seen == set(textures.hue_bands(label))


# Made once, complete, and nothing of the user's touched -------------------------------------------


def test_ensure_makes_once_and_takes_what_is_there(tmp_path, monkeypatch):
    out = ensure_shapes(tmp_path / 'deep' / 'shapes', **TINY)
    assert out.is_absolute()
    assert tree_digest(out) == GOLDEN
    monkeypatch.setattr(store, 'write_dataset', lambda *_: pytest.fail('made it again'))
    assert ensure_shapes(out, **TINY) == out
    assert ensure_shapes(out) == out
    assert leftovers(out.parent) == []


def test_an_empty_folder_and_a_link_are_filled(tiny, tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    out = make_shapes(tmp_path / 'link', **TINY)
    assert (tmp_path / 'link').is_symlink()
    assert out == (tmp_path / 'disk').resolve()
    assert tree_digest(out) == GOLDEN


def test_other_values_are_an_error_with_the_cure(copy):
    with pytest.raises(UserError, match=r'has seed 7, .*asked for was seed 3\.\n.*--force'):
        ensure_shapes(copy, seed=3)


def test_another_recipe_is_an_error_with_the_cure(copy):
    info = json.loads((copy / 'shapes.json').read_bytes())
    (copy / 'shapes.json').write_text(json.dumps({**info, 'recipe': 0}))
    with pytest.raises(UserError, match=r'(?s)is of recipe 0; .*make_shapes.py .* --force'):
        ensure_shapes(copy)


def test_a_missing_image_is_named_and_force_fixes_it(copy):
    (copy / 'train' / '000003.png').unlink()
    with pytest.raises(UserError, match=r'lacks 1 file\(s\), such as train/000003.png'):
        ensure_shapes(copy)
    with pytest.raises(UserError, match=r'already .*\n.*add --force'):
        make_shapes(copy, **TINY)
    assert tree_digest(make_shapes(copy, **TINY, force=True)) == GOLDEN
    assert leftovers(copy.parent) == []


def test_force_spares_a_file_of_the_user(copy):
    (copy / 'train' / 'mine.png').write_bytes(b'precious')
    with pytest.raises(UserError, match=r'such as train/mine.png'):
        make_shapes(copy, **TINY, force=True)
    assert (copy / 'train' / 'mine.png').read_bytes() == b'precious'


@pytest.mark.parametrize('content', [None, '{}', '[1]', 'torn {', '{"format": "paca_mm shapes"}'])
@pytest.mark.parametrize('make', [ensure_shapes, lambda out: make_shapes(out, force=True)])
def test_a_foreign_folder_is_never_touched(tmp_path, make, content):
    folder = tmp_path / 'holiday'
    folder.mkdir()
    (folder / 'beach.jpg').write_bytes(b'precious')
    if content is not None:
        (folder / 'shapes.json').write_text(content)
    with pytest.raises(UserError, match='holiday exists and is not a shapes dataset'):
        make(folder)
    assert (folder / 'beach.jpg').read_bytes() == b'precious'
    assert [path.name for path in tmp_path.iterdir()] == ['holiday']


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('not a folder')
    with pytest.raises(UserError, match=r'file exists and is not a shapes dataset'):
        ensure_shapes(tmp_path / 'file')
    with pytest.raises(UserError, match=r'cannot be written to .*file/shapes: .*\n.*writable'):
        ensure_shapes(tmp_path / 'file' / 'shapes')


@pytest.mark.parametrize('wrong', [{'seed': -1}, {'num_train': 0}, {'size': 63}, {'num_val': 2.0}])
def test_values_out_of_range_are_named(tmp_path, wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f'{name} of the shapes dataset must be an integer from'):
        ensure_shapes(tmp_path / 'shapes', **wrong)
    assert ShapesSpec() == ShapesSpec(seed=0, num_train=320, num_val=64, size=128)


def test_a_dataset_that_is_there_is_used_where_nothing_can_be_written(copy, monkeypatch):
    monkeypatch.setattr(store, 'FileLock', lambda *_: pytest.fail('wanted to write a lock'))
    assert ensure_shapes(copy) == copy


def test_a_dataset_with_images_of_another_compressor_is_as_good(copy):
    for path in (copy / 'train').iterdir():
        with Image.open(path) as image:
            image.save(path, compress_level=0)
    assert ensure_shapes(copy, **TINY) == copy
    assert tree_digest(copy) == GOLDEN


def test_a_kill_half_way_leaves_no_dataset(tmp_path):
    out = tmp_path / 'shapes'
    code = f"""
import os, signal
from paca_mm.datasets.shapes import dataset, make_shapes
class_mask, left = dataset.class_mask, [6]
def dying(scene):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return class_mask(scene)
dataset.class_mask = dying
make_shapes({str(out)!r}, **{TINY!r})
"""
    killed = subprocess.run([sys.executable, '-c', code], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert leftovers(tmp_path) == ['.shapes.part']

    assert tree_digest(ensure_shapes(out, **TINY)) == GOLDEN
    assert leftovers(tmp_path) == []


def test_a_replacement_that_fails_leaves_the_dataset_as_it_was(copy, monkeypatch):
    def full(folder, spec):
        (folder / 'train').mkdir()
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(store, 'write_dataset', full)
    said = r'No space left on device \(.* free\)\.\n.*room for about \d+ MB'
    with pytest.raises(UserError, match=said):
        make_shapes(copy, **TINY, force=True)
    assert tree_digest(copy) == GOLDEN
    assert leftovers(copy.parent) == []


@pytest.fixture
def meanwhile(monkeypatch):
    """Something that happens while a dataset is made, by one who does not see the lock."""

    def prepare(happens):
        write = store.write_dataset

        def write_slowly(folder, spec):
            write(folder, spec)
            monkeypatch.setattr(store, 'write_dataset', write)
            happens()

        monkeypatch.setattr(store, 'FileLock', lambda _: nullcontext())
        monkeypatch.setattr(store, 'write_dataset', write_slowly)

    return prepare


def test_the_slower_of_two_keeps_the_faster_ones_result(tmp_path, meanwhile):
    out = tmp_path / 'shapes'
    meanwhile(lambda: make_shapes(out, **TINY))
    assert tree_digest(ensure_shapes(out, **TINY)) == GOLDEN
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('force', [False, True])
def test_what_a_user_saves_there_meanwhile_is_spared(copy, tmp_path, meanwhile, force):
    out = copy if force else tmp_path / 'shapes'

    def save():
        out.mkdir(exist_ok=True)
        (out / 'mine.png').write_bytes(b'precious')

    meanwhile(save)
    with pytest.raises(UserError, match='such as mine.png' if force else 'not a shapes dataset'):
        make_shapes(out, **TINY, force=force)
    assert (out / 'mine.png').read_bytes() == b'precious'


def test_two_processes_at_once(tmp_path):
    out = tmp_path / 'shapes'
    code = (
        'from paca_mm.datasets.shapes import ensure_shapes; '
        f'ensure_shapes({str(out)!r}, **{TINY!r})'
    )
    both = [subprocess.Popen([sys.executable, '-c', code], cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert tree_digest(out) == GOLDEN
    assert leftovers(tmp_path) == []


# The command line ---------------------------------------------------------------------------------


def run_tool(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'make_shapes.py'), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    )


@pytest.mark.slow
def test_tool_makes_it_and_says_what_comes_next(tmp_path):
    out = tmp_path / 'shapes'
    tiny = ('--seed', 7, '--train', 8, '--val', 3, '--size', 64)
    done = run_tool(out, *tiny)
    assert done.returncode == 0, done.stderr
    assert tree_digest(out) == GOLDEN
    assert ', '.join(CLASSES) in done.stdout
    assert '8 images, 64 x 64' in done.stdout
    assert done.stdout.endswith(' configs/det/mask_rcnn_paca_shapes.py\n')

    assert run_tool(out).returncode == 0  # it is there
    other = run_tool(out, '--seed', 9)
    assert other.returncode == 2
    assert '--force' in other.stderr


@pytest.mark.slow
def test_tool_refuses_a_foreign_folder_without_a_traceback(tmp_path):
    (tmp_path / 'beach.jpg').write_bytes(b'precious')
    for force in ((), ('--force',)):
        refused = run_tool(tmp_path, *force)
        assert refused.returncode == 2
        assert 'error: ' in refused.stderr
        assert 'Traceback' not in refused.stderr
        assert str(tmp_path) in refused.stderr
        assert 'not a shapes dataset' in refused.stderr


def test_importing_the_datasets_package_imports_nothing():
    code = 'import sys, paca_mm.datasets; sys.exit(int("numpy" in sys.modules))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
