"""The cluster explorer: its numbers against loops, its sheets opened, its page clicked on."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.browser import Page, browser
from helpers.images import textured
from helpers.limits import files_of
from helpers.tiny import write_config, write_shapes
from helpers.tool import run
from paca_mm.analysis.build import build
from paca_mm.analysis.cluster_maps import ClusterMaps
from paca_mm.analysis.clusters import colours, sheets
from paca_mm.analysis.clusters.command import Explorer
from paca_mm.analysis.clusters.page import PER_IMAGE, page
from paca_mm.analysis.clusters.seen import MOST_CELLS, Seen, View, _view, as_pixels
from paca_mm.analysis.clusters.showcase import showcase
from paca_mm.commands.options import split
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.families import families

pytestmark = pytest.mark.skipif('paca' not in families(), reason='no family with clusters')


def random_view(stage=0, block=0, depth=1, grid=(6, 9), number=5, heads=2, cell=8.0, seed=0):
    """A view of random maps: each cluster's weights sum to 1, and so does what a cell reads."""
    rng = np.random.RandomState(seed)
    made = rng.rand(number, *grid) ** 4
    reads = rng.rand(heads, *grid, number) ** 4
    return View(
        stage,
        block,
        depth,
        (made / made.sum((1, 2), keepdims=True)).astype(np.float32),
        (reads / reads.sum(-1, keepdims=True)).astype(np.float32),
        cell,
    )


@pytest.fixture(scope='module')
def seen():
    views = [random_view(seed=1), random_view(1, 0, 2, (3, 5), 7, 3, 16.0, 2)]
    views.append(random_view(1, 1, 2, (3, 5), 7, 3, 16.0, 3))
    return Seen('made up', textured(44, 70), views)


# ---- numbers


def test_a_large_image_is_brought_down_by_sums_and_means():
    """In loops: weights add up, what is read is a mean; the last cells have fewer positions."""
    torch.manual_seed(0)
    rows, columns, stride = 2 * MOST_CELLS + 3, 5, 4
    maps = ClusterMaps(
        0, 0, torch.rand(1, 3, rows + 2, columns + 1), torch.rand(1, 2, rows + 2, columns + 1, 3)
    )  # fmt: skip
    view = _view(maps, (stride * rows - 1, stride * columns), stride, 1)
    factor = 3
    assert view.cell == stride * factor
    assert view.grid == (-(-rows // factor), -(-columns // factor))
    for r, c in ((0, 0), (10, 1), (view.grid[0] - 1, 0), (view.grid[0] - 1, 1)):
        inside = [
            (y, x)
            for y in range(factor * r, min(factor * (r + 1), rows))
            for x in range(factor * c, min(factor * (c + 1), columns))
        ]
        total = sum(maps.assignment[0, :, y, x] for y, x in inside)
        mean = sum(maps.attention[0, :, y, x] for y, x in inside) / len(inside)
        np.testing.assert_allclose(view.assignment[:, r, c], total, rtol=1e-5)
        np.testing.assert_allclose(view.attention[:, r, c], mean, rtol=1e-5)


def test_rank_partition_and_what_a_cell_reads():
    view = random_view()
    mass = [
        np.mean([view.attention[h, y, x, m] for h in range(2) for y in range(6) for x in range(9)])
        for m in range(5)
    ]
    np.testing.assert_allclose(view.mass(), mass, rtol=1e-5)
    assert view.ranked() == sorted(range(5), key=lambda m: -mass[m])
    weights = view.assignment[:, 2, 7].tolist()
    assert view.partition()[2, 7] == weights.index(max(weights))
    reads = (view.attention[0, 2, 7] + view.attention[1, 2, 7]) / 2
    assert view.read_most()[2, 7] == reads.argmax()
    by_hand = sum(reads[m] * view.assignment[m] for m in range(5))
    np.testing.assert_allclose(view.seen_from(2, 7), by_hand, rtol=1e-5)
    assert view.cell_at(63.9, 16) == (2, 7)
    assert view.cell_at(1000, -3) == (0, 8)


def test_pixels_are_those_of_the_pipeline():
    image = torch.arange(3 * 2 * 2, dtype=torch.uint8).view(3, 2, 2)  # BGR
    assert as_pixels(image)[0, 1].tolist() == [9, 5, 1]
    assert as_pixels(image[:1])[0, 1].tolist() == [1, 1, 1]
    assert as_pixels(torch.cat([image, image]))[0, 1].tolist() == [9, 5, 1]
    assert as_pixels(image.float() / 255)[0, 1].tolist() == [9, 5, 1]


# ---- colours


def test_colours_of_clusters_differ_and_neighbours_most():
    found = colours.distinct(100).astype(int)
    assert len({tuple(colour) for colour in found}) == 100
    near = np.abs(found[1:] - found[:-1]).sum(1)
    assert near.min() > 100
    grey = found @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.diff(grey)).min() > 15  # in print, too


@pytest.mark.parametrize('name', [colours.MADE_OF, colours.READ])
def test_maps_of_heat_are_perceptually_uniform(name):
    """Steps of the lightness of CIELAB are even: a reader sees as much as there is."""
    linear = colours.table(name) / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.where(luminance > 0.008856, 116 * luminance ** (1 / 3) - 16, 903.3 * luminance)
    straight = np.linspace(lightness[0], lightness[-1], 256)
    assert np.diff(lightness[::8]).min() > 0
    assert np.abs(lightness - straight).max() < 7


def test_squares_of_a_map_lie_where_their_patches_are():
    pixels = np.full((20, 27, 3), 90, np.uint8)
    cells = np.zeros((3, 4))
    cells[1, 2] = 1
    drawn = colours.heat(pixels, cells, 8, colours.READ)
    bright = (drawn == drawn[12, 20]).all(2)
    expected = np.zeros((20, 27), bool)
    expected[8:16, 16:24] = True
    assert (bright == expected).all()


# ---- sheets


def test_a_sheet_shows_another_picture_for_every_cluster(seen):
    figure = sheets.stage_sheet(seen, seen.views[0], top=5)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    maps = [p for p in pictures if p.shape == seen.pixels.shape]
    assert len(maps) == 5 + 5  # image, two partitions, two of what is read; the clusters
    assert len({p.tobytes() for p in maps}) == len(maps)
    titles = [axes.get_title() for axes in figure.axes]
    view = seen.views[0]
    shares = [f'cluster {m}: {view.mass()[m]:.1%}' for m in view.ranked()]
    assert [title for title in titles if title.startswith('cluster')] == shares


def test_a_sheet_is_a_phone_wide_and_has_letters_that_can_be_read(seen, tmp_path):
    for figure in (sheets.stage_sheet(seen, seen.views[1]), sheets.overview(seen)):
        sheets.save(figure, tmp_path / 'sheet.png')
        with Image.open(tmp_path / 'sheet.png') as image:
            assert image.width == 1080
        words = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        words += [axes.title for axes in figure.axes]
        assert min(text.get_fontsize() for text in words) * sheets.DPI / 72 > 17


# ---- the command


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A grey image, one with transparency, one of odd size."""
    folder = tmp_path_factory.mktemp('images')
    Image.fromarray(textured(96, 80)).convert('L').save(folder / 'grey.png')
    Image.fromarray(textured(64, 64)).convert('RGBA').save(folder / 'rgba.png')
    Image.fromarray(textured(61, 115)).save(folder / 'odd.jpg')
    return folder


@pytest.mark.parametrize(('task', 'name'), [('det', 'odd'), ('seg', 'rgba'), ('cls', 'grey')])
def test_every_task_and_every_image(task, name, images, tmp_path, capsys, monkeypatch):
    pytest.importorskip(TASKS[task].scope)
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / 'tiny.py', task)
    model = build(load_config(str(config)))
    for parameter in model.parameters():  # or all clusters are about the same
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(model.state_dict(), 'weights.pth')
    explorer = Explorer(load_config(str(config)), 'weights.pth')
    for file in sorted(images.iterdir()):
        found = explorer.see(str(file))
        for view, stride in zip(found.views, (4, 8, 16), strict=True):
            assert view.cell == stride
            assert view.grid == tuple(-(-side // stride) for side in found.size)
            np.testing.assert_allclose(view.attention.sum(-1), 1, rtol=1e-4)
            assert view.assignment.sum((1, 2)).max() < 1 + 1e-4  # the padding may have some
        assert (found.classes is not None) == (task == 'seg')

    (image,) = images.glob(f'{name}.*')
    words = [image, config, 'weights.pth', '--out', 'out', '--at', '0.2', '1', '--top', '3']
    assert run('visualize_clusters', *words) == 0
    assert 'half of the attention goes to stage 1: ' in capsys.readouterr().out
    kinds = ['stages', 'stage1', 'stage2', 'stage3', *(['classes'] if task == 'seg' else [])]
    expected = {f'{name}_{kind}.png' for kind in kinds}
    assert {file.name for file in Path('out').iterdir()} == {*expected, 'clusters.html'}
    contents = {(Path('out') / file).read_bytes() for file in expected}
    assert len(contents) == len(expected)
    for content in contents:
        with Image.open(io.BytesIO(content)) as sheet:
            assert sheet.width == 1080
            assert np.asarray(sheet).std() > 10
    text = Path('out/clusters.html').read_text()
    assert len(text) < 5e6
    (told,) = unpacked(text)[0]['images']
    assert (told['height'], told['width']) == explorer.see(str(image)).size
    titles = ['stage 1', 'stage 2', 'stage 3', *(['classes'] if task == 'seg' else [])]
    assert [group['title'] for group in told['groups']] == titles


def test_without_a_checkpoint_the_weights_are_random_and_always_the_same(images, tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(str(write_config(tmp_path / 'tiny.py', 'cls')))
    maps = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        explorer = Explorer(cfg)
        assert explorer.weights == 'random weights'
        maps.append(explorer.see(str(images / 'odd.jpg')).views[0].assignment)
        assert torch.initial_seed() == seed
    assert (maps[0] == maps[1]).all()


def test_the_labels_of_the_dataset_stand_beside_the_class_clusters(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path)
    config = write_config(tmp_path / 'tiny.py', 'seg')
    explorer = Explorer(load_config(str(config)))
    found = explorer.see('data/shapes/val/000001.png')
    mask = np.asarray(Image.open('data/shapes/masks/val/000001.png'))
    truth = np.where(mask == 0, 255, mask - 1)  # ADE20K's convention
    assert found.size == truth.shape
    assert (found.truth == truth).all()
    assert found.predicted.shape == truth.shape
    assert found.classes.names == TASKS['seg'].shapes_classes
    figure = sheets.class_sheet(found)
    titles = [axes.get_title() for axes in figure.axes]
    labels = {*np.unique(truth[truth < 255]), *np.unique(found.predicted)}
    present = {TASKS['seg'].shapes_classes[k] for k in labels}
    assert {title[: -len(': labels')] for title in titles if title.endswith(': labels')} == present
    Image.fromarray(textured(60, 60)).save('other.png')
    assert explorer.see('other.png').truth is None


def test_the_picture_at_the_end_of_the_demo(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path)
    config = write_config(tmp_path / 'tiny.py', 'seg')
    torch.save(build(load_config(str(config))).state_dict(), 'weights.pth')
    image = showcase(str(config), 'weights.pth', 'demo.png')
    assert image in {f'data/shapes/val/00000{i}.png' for i in (1, 2)}
    with Image.open('demo.png') as drawn:
        assert drawn.width == 1100
        parts = np.split(np.asarray(drawn.convert('RGB'))[80:-20, :1100], 4, axis=1)
    assert len({part.tobytes() for part in parts}) == 4


# ---- wrong on purpose


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['c.py'], 'no image before the config (c.py)'),
        (['c.py', 'w.pth'], 'no image before the config (c.py)'),
        (['mask_rcnn_paca'], 'no image before the config (mask_rcnn_paca)'),
        (['a.png', 'w.pth', 'c.py'], 'the checkpoint w.pth is before the config c.py'),
        (['a.png', 'c.py', 'w.pth', 'b.png'], 'behind the config c.py are w.pth and b.png'),
    ],
)
def test_words_in_the_wrong_order(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        split(words)


def test_words_in_the_right_order():
    assert split(['a', 'b', 'c.py', 'w.pth']) == (['a', 'b'], 'c.py', 'w.pth')
    assert split(['a', 'mask_rcnn_paca', 'https://x/w.pth']) == (
        ['a'], 'mask_rcnn_paca', 'https://x/w.pth',
    )  # fmt: skip
    assert split(['a', 'mask_rcnn_paca']) == (['a'], 'mask_rcnn_paca', None)


@pytest.fixture
def wrong(images, tmp_path, capsys, monkeypatch):
    """What a wrong line says: one message, exit code 2, and nothing is written."""
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / 'tiny.py', 'cls')

    def said(*words):
        assert run('visualize_clusters', *words) == 2
        error = capsys.readouterr().err
        assert error.count('error:') == 1
        assert 'Traceback' not in error
        return error

    return said


def test_what_is_no_image_no_model_no_place(wrong, images, tmp_path):
    image = images / 'odd.jpg'
    assert "no images in 'no_such.jpg'" in wrong('no_such.jpg', 'tiny.py')
    assert 'there is no image before the config' in wrong('tiny.py')
    assert "there is no config 'no_such.py'" in wrong(image, 'no_such.py')
    assert 'both are shares of the image' in wrong(image, 'tiny.py', '--at', '300', '200')
    assert 'no stage has so many' in wrong(image, 'tiny.py', '--block', '2')
    (tmp_path / 'plain').write_text('a file')
    assert 'cannot be written' in wrong(image, 'tiny.py', '--out', 'plain/out')
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.skipif('rapidnet' not in families(), reason='the other family')
def test_a_model_without_clusters(wrong, images):
    error = wrong(images / 'odd.jpg', 'configs/cls/rapidnet/rapidnet_ti_in1k.py')
    assert 'the backbone of this model is RapidNet, which has no clusters' in error
    assert "'paca_mm.PaCaViT'" in error


def test_a_checkpoint_of_another_row(wrong, images, tmp_path):
    other = tmp_path / 'other.py'
    write_config(other, 'cls', more='clustering="mlp",')
    torch.save(build(load_config(str(other))).state_dict(), 'other.pth')
    error = wrong(images / 'odd.jpg', 'tiny.py', 'other.pth')
    assert 'other.pth' in error
    assert 'clustering' in error


def test_a_full_disk(wrong, images, tmp_path):
    with files_of(20_000):
        error = wrong(images / 'odd.jpg', 'tiny.py', '--out', 'out')
    assert 'odd_stages.png cannot be written' in error
    assert 'name another place by --out' in error
    assert not [*(tmp_path / 'out').iterdir()]


def test_a_damaged_image_is_named_and_the_others_are_drawn(images, tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'tiny.py', 'cls')
    (tmp_path / 'bad.jpg').write_text('no image')
    words = [tmp_path / 'bad.jpg', images / 'grey.png', config, '--out', tmp_path / 'out']
    words += ['--top', '1']
    assert run('visualize_clusters', *words) == 1
    assert 'bad.jpg is no image' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'grey_stage1.png').is_file()


# ---- the page


def unpacked(text):
    """The settings of a page, and the bytes of the maps of each image."""
    settings = json.loads(re.search(r'id="settings">(.*?)</script>', text)[1])
    maps = re.findall(r'<script type="text/plain" id="maps\d+">(.*?)</script>', text)
    return settings, [np.frombuffer(base64.b64decode(m), np.uint8) for m in maps]


def test_the_page_has_the_numbers_of_the_maps(seen):
    settings, (maps,) = unpacked(page([seen], 'title', 'words'))
    for group, views in zip(
        settings['images'][0]['groups'], (seen.views[:1], seen.views[1:]), strict=True
    ):
        kept = [number for number, _ in group['clusters']]
        assert sorted(kept) == list(range(group['total']))
        size = (group['rows'], group['columns'])
        for block, view in zip(group['blocks'], views, strict=True):
            assert size == view.grid
            at, most = block['made']['at'], np.array(block['made']['most'])
            made = maps[at : at + len(kept) * size[0] * size[1]].reshape(-1, *size) / 255.0
            made = made**2 * most[:, None, None]
            expected = view.assignment[kept]
            np.testing.assert_allclose(made, expected, atol=0.005 * expected.max())
            at, count = block['at'], block['heads'] * size[0] * size[1] * len(kept)
            reads = (maps[at : at + count].reshape(-1, *size, len(kept)) / 255.0) ** 2
            expected = view.attention[..., kept]
            np.testing.assert_allclose(reads * block['most'], expected, atol=0.005)
            belongs = maps[block['belongs']['at'] :][: size[0] * size[1]].reshape(size)
            assert (np.array(kept)[belongs] == view.partition()).all()


def test_a_page_never_takes_more_than_it_may():
    """The largest row on a large image, with clusters again in every block."""
    rng = np.random.RandomState(0)

    def view(stage, block, depth, grid, heads, cell):
        made = rng.rand(100, *grid).astype(np.float32)
        reads = rng.rand(heads, *grid, 100).astype(np.float32)
        return View(stage, block, depth, made, reads, cell)

    views = [view(0, i, 3, (58, 96), 2, 14.0) for i in range(3)]
    views += [view(1, i, 3, (50, 84), 4, 16.0) for i in range(3)]
    views += [view(2, i, 18, (50, 84), 8, 16.0) for i in range(18)]
    big = Seen('big', rng.randint(0, 256, (800, 1333, 3), np.uint8), views)
    text = page([big], 'title', 'words')
    assert len(text) < 5e6
    settings, (maps,) = unpacked(text)
    assert len(text) > 0.5 * PER_IMAGE
    last = settings['images'][0]['groups'][-1]
    assert last['total'] == 100
    assert len(last['clusters']) >= 32
    end = last['rows'] * last['columns'] * len(last['clusters']) * 8 + last['blocks'][-1]['at']
    assert end == len(maps)


def test_names_cannot_break_the_page(seen):
    odd = Seen('</script><b>{{maps}}', seen.pixels, seen.views)
    text = page([odd], '<i>', '& "words"')
    settings, maps = unpacked(text)
    assert settings['images'][0]['name'] == odd.name
    assert len(maps) == 1
    assert '&lt;i&gt;' in text


needs_browser = pytest.mark.skipif(browser() is None, reason='no chromium or chrome is installed')


@pytest.fixture
def file(seen, tmp_path):
    other = Seen('another', textured(70, 44), [random_view(grid=(9, 6), seed=4)])
    path = tmp_path / 'clusters.html'
    path.write_text(page([seen, other], 'Clusters', 'words'), encoding='utf-8')
    return path


def state_of(opened):
    return dict(pair.split('=') for pair in opened.run('location.hash')[1:].split('&'))


@needs_browser
def test_a_click_says_what_the_patch_reads(file, seen, tmp_path):
    with Page(file, tmp_path / 'profile', fragment='image=0&stage=0&block=0') as opened:
        before = opened.picture()
        opened.click('#view', (7.5 * 8) / 70, (2.5 * 8) / 44)
        assert (state_of(opened)['row'], state_of(opened)['column']) == ('2', '7')
        assert opened.picture() != before
        reads = seen.views[0].reads(2, 7)
        best = int(reads.argmax())
        said = opened.run('document.getElementById("said").textContent')
        assert 'The patch in column 8 of 9, row 3 of 6, reads most from' in said
        shown = float(re.search(rf'cluster {best} \(([\d.]+) %\)', said)[1])
        assert shown == pytest.approx(100 * reads[best], rel=0.02)
        listed = opened.run(
            '[...document.querySelectorAll("#list button")].map(b => +b.dataset.cluster)'
        )
        assert listed == np.argsort(-reads).tolist()

        # Where a cluster of the list lives.
        before = opened.picture()
        opened.click(f'#list button[data-cluster="{best}"]')
        assert state_of(opened)['cluster'] == str(best)
        assert opened.picture() != before
        legend = opened.run('document.getElementById("high").textContent')
        assert float(legend.split(' ')[0]) == pytest.approx(
            100 * seen.views[0].assignment[best].max(), rel=0.01
        )
        opened.click(f'#list button[data-cluster="{best}"]')
        assert state_of(opened)['cluster'] == ''
        opened.click('#orders button[data-value="all"]')
        listed = opened.run(
            '[...document.querySelectorAll("#list button")].map(b => +b.dataset.cluster)'
        )
        assert listed == seen.views[0].ranked()
        assert opened.faults() == []


@needs_browser
def test_the_mouse_looks_at_a_patch_without_choosing_it(file, seen, tmp_path):
    with Page(file, tmp_path / 'profile', fragment='stage=0&row=0&column=0') as opened:
        chosen = opened.run('document.getElementById("said").textContent')
        opened.move('#view', 0.5, 0.9)
        opened.wait_for('document.getElementById("said").textContent.includes("row 5 of 6")')
        assert state_of(opened)['row'] == '0'
        opened.move('h1')
        opened.wait_for(f'document.getElementById("said").textContent === {json.dumps(chosen)}')


@needs_browser
def test_everything_can_be_done_by_keys(file, tmp_path):
    with Page(file, tmp_path / 'profile', fragment='stage=0&row=2&column=3') as opened:
        for key, name, value in [
            ('ArrowRight', 'column', '4'),
            ('ArrowDown', 'row', '3'),
            ('ArrowLeft', 'column', '3'),
            ('ArrowUp', 'row', '2'),
            ('2', 'stage', '1'),
            ('[', 'block', '0'),
            (']', 'block', '1'),
            ('.', 'head', '0'),
            (',', 'head', 'mean'),
            ('v', 'show', 'most'),
            ('v', 'show', 'belongs'),
            ('o', 'order', 'all'),
            ('1', 'column', '3'),  # where it was, in another grid
            ('n', 'image', '1'),
            ('p', 'image', '0'),
        ]:
            before = opened.picture()
            opened.key(key)
            opened.wait_for(f'location.hash.includes("{name}={value}&") || '
                            f'location.hash.endsWith("{name}={value}")')  # fmt: skip
            assert opened.picture() != before, key
        opened.key('j')
        assert state_of(opened)['cluster'] != ''
        opened.key('Escape')
        assert state_of(opened)['cluster'] == ''
        assert opened.faults() == []


@needs_browser
def test_a_finger_on_a_phone(file, tmp_path):
    with Page(file, tmp_path / 'profile', 390, 844, touch=True, fragment='stage=0') as opened:
        opened.tap('#view', (1.5 * 8) / 70, (4.5 * 8) / 44)
        assert (state_of(opened)['row'], state_of(opened)['column']) == ('4', '1')
        opened.tap('#stages button[data-value="1"]')
        assert state_of(opened)['stage'] == '1'
        assert opened.run('document.documentElement.scrollWidth') <= 390
        sides = opened.run(
            '[...document.querySelectorAll("button, select")].map(e => e.getBoundingClientRect().height)'
        )
        assert min(sides) >= 38  # a fingertip
        assert opened.faults() == []


# ---- while training


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train the tiny model of a task in a folder of its own; returns the drawn files and the weights."""
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path)

    def trained(task, folder, *options):
        pytest.importorskip(TASKS[task].scope)
        config = write_config(tmp_path / f'{task}.py', task, rest='randomness = dict(seed=1)')
        extra = ['--cfg-options', *options] if options else []
        code = run('train', config, '--work-dir', folder, *extra)
        drawn = sorted(file.name for file in Path(folder).glob('*/vis_data/vis_image/*'))
        saved = next(iter(sorted(Path(folder).glob('*.pth'))), None)
        return code, drawn, saved

    return trained


ON = 'default_hooks.clusters.interval=1'


@pytest.mark.slow
def test_the_hook_draws_before_and_while_training_and_changes_nothing(train, tmp_path):
    from paca_mm.checkpoint import read_checkpoint

    code, drawn, plain = train('seg', 'off')
    assert (code, drawn) == (0, [])
    code, drawn, watched = train('seg', 'on', ON)
    assert code == 0
    expected = [f'{kind}_00000{i}_{step}.png' for kind in ('classes', 'clusters') for i in (1, 2)
                for step in (0, 1)]  # fmt: skip
    assert drawn == expected
    a, b = (read_checkpoint(str(file))['state_dict'] for file in (plain, watched))
    assert all(torch.equal(a[key], b[key]) for key in a)
    folder = next(Path('on').glob('*/vis_data/vis_image'))
    before, after = ((folder / f'clusters_000001_{i}.png').read_bytes() for i in (0, 1))
    assert before != after
    with Image.open(folder / 'clusters_000001_0.png') as image:
        assert image.width == 720


@pytest.mark.slow
def test_the_hook_counts_epochs_where_a_training_does(train):
    """And tells images of one name in folders of their classes apart."""
    code, drawn, _ = train('cls', 'on', ON, 'default_hooks.clusters.num_images=2')
    assert code == 0
    assert len(drawn) == 4
    assert sum(name.endswith('_0.png') for name in drawn) == 2


def test_the_hook_says_what_it_cannot_do(train, capsys):
    from paca_mm.analysis.clusters.hook import ClusterVisualizationHook

    with pytest.raises(UserError, match=r'interval=-1 .* must be 0 or more'):
        ClusterVisualizationHook(interval=-1)
    with pytest.raises(UserError, match=r'top=0 .* must be 1 or more'):
        ClusterVisualizationHook(interval=1, top=0)
    code, _, _ = train('seg', 'a', ON, 'model.backbone.num_clusters=0,0,0,0')
    assert code == 2
    assert 'no stage of this PaCaViT has clusters' in capsys.readouterr().err


def test_only_rank_0_draws(monkeypatch):
    from types import SimpleNamespace

    from mmengine.runner import EpochBasedTrainLoop

    from paca_mm.analysis.clusters import hook as module

    drawn = []
    monkeypatch.setattr(module, 'clustering_backbone', lambda model: None)
    monkeypatch.setattr(module.ClusterVisualizationHook, 'draw', lambda *args: drawn.append(args))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=['a', 'b', 'c']))
    runner = SimpleNamespace(
        train_loop=object.__new__(EpochBasedTrainLoop),
        model=torch.nn.Identity(),
        val_loop=loop,
        val_dataloader=loop.dataloader,
        iter=4,
        epoch=0,
    )
    for rank_0, expected in ((False, 0), (True, 2)):
        monkeypatch.setattr(module, 'is_main_process', lambda rank_0=rank_0: rank_0)
        hook = module.ClusterVisualizationHook(interval=1)
        hook.before_train(runner)
        hook.after_train_iter(runner, 0)
        hook.after_train_epoch(runner)
        assert len(drawn) == expected
    off = module.ClusterVisualizationHook()
    off.before_train(SimpleNamespace())  # it asks a runner for nothing
    off.after_train_iter(SimpleNamespace(), 0)
    off.after_train_epoch(SimpleNamespace())
