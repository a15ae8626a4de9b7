"""Spectra, distances and the search by them, against theory and slow sums."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tool import run
from paca_mm.analysis.frequency import search
from paca_mm.analysis.frequency.images import Images, load_images
from paca_mm.analysis.frequency.search import Budget, Candidate, candidates, scaled, write_config
from paca_mm.analysis.frequency.spectrum import Band, Curve, distance, join, spectrum_of
from paca_mm.analysis.frequency.stages import maps_of, over_seeds, prepared, trained, untrained
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.families import families
from paca_mm.paths import assets_root

CONFIG = 'configs/cls/paca_shapes.py'


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape))


def power_law(exponent, side=128, count=32):
    """Periodic fields whose amplitude is frequency ** exponent."""
    spectrum = torch.fft.fft2(noise(count, 1, side, side))
    k = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = (k[:, None].square() + k[None].square()).sqrt()
    radius[0, 0] = 1
    return torch.fft.ifft2(spectrum * radius**exponent).real


def test_every_mode_is_counted_once_as_a_slow_sum_counts_them():
    """The definition, in loops: an odd map over an image of another shape."""
    height, width, size = 5, 6, (40, 24)
    field = noise(1, 2, height, width)
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))
    energy, powers = {}, {}
    nyquist = min(height / size[0], width / size[1]) / 2
    for ky in range(-(height // 2), height // 2 + 1):
        for kx in range(-(width // 2), width // 2):
            total = 0.0
            for x in field[0].numpy():
                x = window * (x - (window * x).sum() / window.sum())
                wave = np.exp(
                    -2j * np.pi * (ky * np.arange(height)[:, None] / height
                                   + kx * np.arange(width)[None] / width)
                )  # fmt: skip
                total += abs((x * wave).sum()) ** 2 / (height * width * (window**2).sum()) / 2
            f = math.hypot(ky / size[0], kx / size[1])
            if f == 0:
                assert total < 1e-20
                continue
            band = -math.floor(math.log2(2 * f) + 1e-9) - 1
            last = -math.floor(math.log2(2 * nyquist) - 1e-9) - 1
            energy[max(band, last)] = energy.get(max(band, last), 0) + total
            octave = math.floor(2 * math.log2(2 * f) + 0.5 + 1e-9) / 2
            if octave <= math.log2(2 * nyquist) + 0.25 - 1e-9:
                powers.setdefault(octave, []).append(total * size[0] * size[1])
    found = spectrum_of(field, size)
    assert list(found.bands) == sorted(energy, reverse=True)
    np.testing.assert_allclose(found.energy[0], [energy[b] for b in found.bands], rtol=1e-10)
    assert found.octaves.tolist() == sorted(powers)
    means = [np.mean(powers[octave]) for octave in found.octaves.tolist()]
    np.testing.assert_allclose(found.density[0], means, rtol=1e-10)


@pytest.mark.parametrize('window', ['hann', 'none'])
def test_white_noise_is_flat_at_its_variance(window):
    found = spectrum_of(3 * noise(8, 50, 64, 64), (64, 64), window)
    curve = Curve.of_images(found)
    assert curve.slope.mean == pytest.approx(0, abs=0.02)
    # The logarithm of a mean of few modes is less than that of many: single channels lean a little.
    single = Curve.of_images(spectrum_of(noise(400, 1, 64, 64), (64, 64), window))
    assert 0 < single.slope.mean < 0.08
    inside = found.octaves >= found.lowest
    np.testing.assert_allclose(found.density.mean(0)[inside], 9, rtol=0.08)
    # An octave has four times the area of the one below it, whatever the window.
    top, below = curve.shares.mean[-1], curve.shares.mean[-2]
    square = 1 - math.pi / 16  # the top band has the corners
    assert top / below == pytest.approx(square / (3 * math.pi / 64), rel=0.05)


@pytest.mark.parametrize('exponent', [-0.5, -1, -1.5])
def test_an_amplitude_of_a_power_law_has_twice_its_exponent_in_power(exponent):
    slope = Curve.of_images(spectrum_of(power_law(exponent), (128, 128))).slope
    assert slope.mean == pytest.approx(2 * exponent, abs=0.06)
    assert slope.low < slope.mean < slope.high


@pytest.mark.parametrize(('window', 'shape'), [('none', (48, 33)), ('hann', (48, 33))])
def test_the_energies_sum_to_the_variance(window, shape):
    """Parseval's theorem, with the variance weighted by the square of the window."""
    field = noise(3, 4, *shape) + 5
    found = spectrum_of(field, (96, 66), window)
    x = field.numpy()
    w = np.ones(shape)
    if window == 'hann':
        w = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
    mean = (w * x).sum((2, 3), keepdims=True) / w.sum()
    expected = ((w * (x - mean)) ** 2).sum((2, 3)) / (w**2).sum()
    np.testing.assert_allclose(found.variance, expected.mean(1), rtol=1e-12)
    if window == 'none':
        np.testing.assert_allclose(found.variance, x.var((2, 3)).mean(1), rtol=1e-12)


def test_a_low_passed_map_loses_its_high_octaves():
    field = noise(8, 2, 64, 64)
    spectrum = torch.fft.fft2(field)
    k = torch.fft.fftfreq(64, dtype=torch.float64).abs()
    spectrum[..., (k[:, None].square() + k[None].square()).sqrt() >= 1 / 8] = 0
    before = spectrum_of(field, (64, 64), 'none')
    after = spectrum_of(torch.fft.ifft2(spectrum).real, (64, 64), 'none')
    assert after.bands == (4, 3, 2, 1, 0)
    np.testing.assert_allclose(after.energy[:, :3], before.energy[:, :3], rtol=1e-9)
    assert after.shares[:, 3:].max() < 1e-20
    assert before.shares[:, 3:].min() > 0.1


def test_a_quarter_turn_changes_nothing_and_any_other_little():
    field = noise(2, 3, 32, 32)
    turned = spectrum_of(field.rot90(1, (2, 3)), (32, 32))
    np.testing.assert_allclose(turned.density, spectrum_of(field, (32, 32)).density, rtol=1e-9)

    # Waves of random directions, turned where they are computed: nothing is interpolated.
    rng = np.random.RandomState(0)
    cycles = torch.from_numpy(1.5 * 30 ** rng.rand(16, 100, 1, 1))
    direction, phase = torch.from_numpy(2 * np.pi * rng.rand(2, 16, 100, 1, 1))
    at = (torch.arange(96, dtype=torch.float64) - 47.5) / 96

    def curve_at(angle):
        x = at * torch.cos(direction + angle) + at[:, None] * torch.sin(direction + angle)
        waves = torch.cos(2 * math.pi * cycles * x + phase) / cycles
        return Curve.of_images(spectrum_of(waves.sum(1, keepdim=True), (96, 96)))

    straight, oblique = curve_at(0), curve_at(0.4)
    assert distance(straight, oblique) < 1.0
    assert np.abs(straight.shares.mean - oblique.shares.mean).max() < 0.05


def test_resolution_does_what_theory_says():
    """An ideally enlarged image: the same modes at the same frequencies of the same image."""
    field = noise(4, 1, 32, 32)
    spectrum = torch.fft.fftshift(torch.fft.fft2(field), (2, 3))
    spectrum[..., 0, :] = spectrum[..., 0] = 0  # Nyquist's line has no partner to go with
    small = torch.fft.ifft2(torch.fft.ifftshift(spectrum, (2, 3))).real
    padded = torch.nn.functional.pad(spectrum, (16, 16, 16, 16))
    large = 4 * torch.fft.ifft2(torch.fft.ifftshift(padded, (2, 3))).real

    one, two = spectrum_of(small, (64, 64), 'none'), spectrum_of(large, (64, 64), 'none')
    below = one.octaves < one.highest
    assert one.highest == -1
    assert two.octaves[: len(one.octaves)].tolist() == one.octaves.tolist()
    np.testing.assert_allclose(
        one.density[:, below], two.density[:, : below.sum()], rtol=1e-9
    )  # of one unit, variance per (cycle per pixel)^2, whatever the stride
    assert one.bands == two.bands[:-1] == (4, 3, 2, 1)
    np.testing.assert_allclose(one.variance, two.variance, rtol=1e-9)

    # In its own pixels the enlarged image has everything one octave lower.
    own = spectrum_of(small, (32, 32), 'none')
    assert [b - 1 for b in one.bands] == list(own.bands)
    np.testing.assert_allclose(own.energy, one.energy, rtol=1e-9)
    np.testing.assert_allclose(own.octaves - 1, one.octaves)


def test_the_window_removes_what_the_borders_add():
    """A ramp has no high frequencies; a periodic transform sees a jump at its border."""
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64)
    high = [spectrum_of(ramp, (64, 64), window).shares[0, -2:].sum() for window in ('none', 'hann')]
    assert high[0] > 0.02
    assert high[1] < 1e-4
    with pytest.raises(UserError, match=r"window='hamming' is unknown.* hann, none"):
        spectrum_of(ramp, (64, 64), 'hamming')


def test_maps_without_detail_and_without_numbers():
    field = noise(3, 2, 8, 8)
    field[1] = 7.3
    found = spectrum_of(field.float(), (8, 8))
    assert found.with_detail().density.shape[0] == 2
    assert spectrum_of(field[1:2], (8, 8)).with_detail() is None
    field[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match='not finite'):
        spectrum_of(field, (8, 8))


def test_images_of_several_sizes_share_the_bins_that_all_have():
    small, large = (spectrum_of(noise(2, 1, n, n), (n, n)) for n in (32, 64))
    both = join([small, large])
    assert both.octaves.tolist() == small.octaves.tolist()
    assert both.density.shape == (4, len(small.octaves))
    assert both.bands == large.bands
    np.testing.assert_allclose(both.variance, [*small.variance, *large.variance])
    assert (both.lowest, both.highest) == (small.lowest, 0)


def curve(octaves, db):
    band = Band(*[np.array(db, float)] * 3)
    return Curve(np.array(octaves, float), band, (0,), band, None, 1.0, 1)


def test_the_distance_is_that_of_the_shapes():
    a = curve([-2, -1.5, -1, -0.5, 0], [9, 6, 3, 0, -3])
    assert distance(a, curve([-2, -1.5, -1, -0.5, 0], [19, 16, 13, 10, 7])) == 0
    # On -2, -1.5 and -1 only: shapes (3, 0, -3) and (2, 0, -2).
    b = curve([-3, -2, -1.5, -1], [50, 2, 0, -2])
    assert distance(a, b) == distance(b, a) == pytest.approx(2 / 3)
    assert distance(a, curve([-2], [1])) is None
    assert distance(a, None) is None


def test_bands_are_standard_errors_or_ranges():
    found = spectrum_of(noise(25, 1, 16, 16), (16, 16))
    one = Curve.of_images(found)
    error = found.db.std(0, ddof=1) / 5
    np.testing.assert_allclose(one.db.high - one.db.mean, 1.96 * error)
    other = Curve.of_images(spectrum_of(noise(25, 1, 16, 16, seed=1), (16, 16)))
    both = Curve.of_seeds([one, other])
    np.testing.assert_allclose(both.db.low, np.minimum(one.db.mean, other.db.mean))
    np.testing.assert_allclose(both.db.mean, (one.db.mean + other.db.mean) / 2)


def test_tokens_are_laid_out_on_the_grid_of_the_image():
    grid = noise(2, 3, 4, 6)
    tokens = grid.flatten(2).transpose(1, 2)
    extra = torch.cat([noise(2, 1, 3), tokens], 1)
    for outputs in (tokens, [extra], ([tokens, noise(2, 3)],)):
        (found,) = maps_of(outputs, (64, 96))
        assert torch.equal(found, grid)
    with pytest.raises(UserError, match=r'24 tokens .* 64 x 64 .* make no grid'):
        maps_of(tokens, (64, 64))
    with pytest.raises(UserError, match=r'no feature maps but \(2, 3\)'):
        maps_of((noise(2, 3),), (64, 64))


# Models --------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """A working directory with a few images of the embedded dataset."""
    folder = tmp_path_factory.mktemp('shapes')
    ensure_shapes(folder / 'data/shapes', num_train=8, num_val=4)
    return folder


@pytest.fixture
def here(shapes, tmp_path, monkeypatch):
    (tmp_path / 'data').symlink_to(shapes / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def some_images(size=64, count=4):
    pixels = torch.from_numpy(
        np.random.RandomState(0).randint(0, 256, (count, 3, size, size)).astype(np.uint8)
    )
    return Images('noise', count, (), tuple(pixels))


def small(config=CONFIG):
    pytest.importorskip('mmpretrain')
    cfg = load_config(config)
    cfg.model.backbone.arch.update(embed_dims=(8, 16, 32, 32))
    if 'num_clusters' in cfg.model.backbone:
        cfg.model.backbone.num_clusters = (9, 9, 9, 0)
    if 'in_channels' in cfg.model.head:
        cfg.model.head.in_channels = 32
    return cfg


def test_images_come_through_the_test_pipeline_and_lose_their_borders(tmp_path, here):
    pytest.importorskip('mmpretrain')
    cfg = load_config(CONFIG)
    pixels = np.random.RandomState(0).randint(0, 256, (70, 100, 3)).astype(np.uint8)
    (tmp_path / 'some').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'some/a.png')
    images = load_images(cfg, str(tmp_path / 'some'), crop=64)
    assert images.sizes == [(64, 64)]
    expected = pixels[3:67, 18:82, ::-1].copy()  # the hosts load BGR
    assert torch.equal(images.pixels[0], torch.from_numpy(expected).permute(2, 0, 1))
    of_config = load_images(cfg, most=5)
    assert (of_config.found, len(of_config.pixels)) == (12, 5)
    assert len({file.split('/')[-2] for file in of_config.files}) == 5  # of five of six classes


def test_a_seed_is_a_network_and_a_checkpoint_is_its_own(tmp_path):
    """Without BatchNorm, an untrained network saved and loaded has the curves of its seed."""
    cfg, images = prepared(small()), some_images()
    state = torch.get_rng_state()
    first, again, other = untrained(cfg, images, [3, 3, 4])
    assert torch.equal(torch.get_rng_state(), state)
    assert [stage.positions for stage in first] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert distance(first[0].curve, again[0].curve) == 0 < distance(first[0].curve, other[0].curve)

    from mmengine.registry import MODELS, init_default_scope

    from paca_mm.analysis.frequency.stages import untrained_backbone

    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    model.backbone.load_state_dict(untrained_backbone(cfg.model.backbone, 3).state_dict())
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    loaded = trained(cfg, str(tmp_path / 'a.pth'), images)
    for a, b in zip(first, loaded, strict=True):
        np.testing.assert_allclose(a.curve.db.mean, b.curve.db.mean, rtol=1e-6)


def test_an_untrained_batch_norm_knows_the_images():
    """A network of convolutions and norms does not see how bright or strong its input is."""
    cfg = prepared(small('configs/cls/rapidnet/rapidnet_shapes.py'))
    curves = []
    for std in (58, 580):
        cfg.model.data_preprocessor.std = [std] * 3
        curves.append(untrained(cfg, some_images(), [0])[0])
    for a, b in zip(*curves, strict=True):
        np.testing.assert_allclose(a.curve.db.mean, b.curve.db.mean, atol=0.05)
        assert a.curve.variance == pytest.approx(b.curve.variance, rel=0.01)


@pytest.mark.parametrize(
    ('config', 'options'),
    [
        ('configs/det/mask_rcnn_paca_shapes.py', {}),
        ('configs/seg/paca_head_paca_shapes.py', {}),
        (
            'configs/cls/attentive_norm/resnet50_an_in1k.py',
            {
                'model.backbone.module.out_indices': (0, 1, 2, 3),
            },
        ),
    ],
)
def test_any_backbone_of_a_config(config, options):
    cfg = load_config(config, options)
    pytest.importorskip(cfg.default_scope)
    stages = over_seeds(untrained(prepared(cfg), some_images(count=2), [0]))
    strides = [64 // stage.positions[0] for stage in stages]
    assert strides == [4, 8, 16, 32][: len(stages)]
    assert all(stage.curve.shares.mean.sum() == pytest.approx(1) for stage in stages)
    assert stages[0].curve.octaves[-1] == -2


def test_of_two_streams_of_tokens_the_one_that_is_a_map():
    cfg = load_config('configs/cls/vittm/vittm_shapes.py')
    (stage,) = untrained(prepared(cfg), some_images(count=2), [0])[0]
    assert stage.positions == (64 // cfg.model.backbone.process_patch,) * 2
    assert stage.channels == cfg.model.backbone.arch['embed_dims']


def test_every_arch_has_the_widths_of_its_family():
    found = [family for family in families().values() if family.arch]
    assert {family.title for family in found} >= {'PaCa-ViT', 'RapidNet'}
    for family in found:
        for arguments in (family.toy, *(row.backbone for row in family.rows.values())):
            arch = family.arch(arguments)
            assert scaled(arch, 1, 1) == arch
            if family.widths:
                assert tuple(arch['embed_dims']) == tuple(family.widths(arguments))


def test_sizes_are_multiplied_as_they_must_be():
    paca = dict(
        embed_dims=(96, 192, 320, 384), num_heads=(2, 4, 8, 16), depths=(2, 2, 4, 2),
        mlp_ratios=(4, 4, 4, 4), teacher_depths=(2, 2, 4, 2),
    )  # fmt: skip
    half = scaled(paca, 0.5, 0.45)
    assert half['depths'] == (1, 1, 2, 1)
    assert half['teacher_depths'] == (1, 1, 2, 1)
    assert half['embed_dims'] == (40, 88, 144, 176)  # 43.2, 86.4, 144, 172.8: to 8s, and to 16s
    assert half['num_heads'] == paca['num_heads']
    assert scaled(dict(inverted_blocks=(1, 1), mldc_blocks=(0, 2)), 0.3, 1) == dict(
        inverted_blocks=(1, 1), mldc_blocks=(0, 1)
    )
    assert scaled(dict(embed_dims=(12,), num_heads=(3,)), 1, 1.4)['embed_dims'] == (18,)


@pytest.mark.slow
def test_candidates_keep_to_the_budget_and_say_when_none_does():
    cfg = prepared(small())
    every = candidates(cfg, Budget('params', 1.0), (64, 64), (1, 2), (0.5, 1))
    assert len(every) == 4
    middle = sorted(every, key=lambda c: c.params)[2]
    budget = Budget('params', middle.params / 1e6)
    kept = candidates(cfg, budget, (64, 64), (1, 2), (0.5, 1))
    assert {c.params for c in kept} == {c.params for c in every if c.params <= middle.params}
    exact = Budget('macs', middle.macs / 1e9, at_least=0.999)
    assert candidates(cfg, exact, (64, 64), (1, 2), (0.5, 1)) == [middle]
    with pytest.raises(
        UserError, match=r'none of the 4 sizes costs at most 0\.001 M parameters: the'
    ):
        candidates(cfg, Budget('params', 0.001), (64, 64), (1, 2), (0.5, 1))
    with pytest.raises(UserError, match='must be above 0, but -1 is not'):
        candidates(cfg, budget, (64, 64), (-1,))
    with pytest.raises(UserError, match='a budget of 0 M parameters'):
        Budget('params', 0)


def test_costs_are_those_of_the_model():
    from paca_mm.analysis.flops import count
    from paca_mm.models import PaCaViT

    cfg = prepared(small())
    (one,) = candidates(cfg, Budget('macs', 1.0), (64, 96), (2,), (1.5,))
    model = PaCaViT(arch=one.arch, num_clusters=(9, 9, 9, 0)).eval()
    assert one.arch['depths'] == (2, 2, 4, 2)
    assert one.params == sum(p.numel() for p in model.parameters())
    assert one.macs == count(model, lambda m: m(torch.zeros(1, 3, 64, 96))).macs


@pytest.mark.parametrize(
    ('config', 'readers'),
    [
        ('det/mask_rcnn_paca_shapes.py', lambda m: m.neck.in_channels),
        ('det/mask_rcnn_paca.py', lambda m: m.neck.in_channels),
        ('seg/paca_head_paca_shapes.py', lambda m: m.decode_head.in_channels),
        ('seg/upernet_paca_tiny_ade20k.py', lambda m: m.decode_head.in_channels),
        ('cls/rapidnet/rapidnet_shapes.py', lambda m: [m.head.in_channels]),
        ('cls/paca_tiny_in1k.py', lambda m: [m.head.in_channels]),
    ],
)
def test_a_config_of_other_sizes_fits_together(tmp_path, config, readers):
    base = assets_root() / 'configs' / config
    cfg = load_config(str(base))
    pytest.importorskip(cfg.default_scope)
    family = search.family_with_arch(cfg)
    arch = scaled(family.arch(cfg.model.backbone), 1, 1.25)
    file = tmp_path / 'wider.py'
    write_config(file, base, cfg, Candidate(1, 1.25, arch, 0, 0), 'why\nso')
    found = load_config(str(file))
    assert found.model.backbone.arch == arch
    assert found.model.backbone.get('init_cfg') is None
    out_indices = found.model.backbone.get('out_indices', (0, 1, 2, 3))
    assert list(readers(found.model)) == [arch['embed_dims'][i] for i in out_indices]
    if 'auxiliary_head' in found.model:
        assert found.model.auxiliary_head.in_channels == arch['embed_dims'][2]
    assert found.train_cfg == cfg.train_cfg
    assert file.read_text().startswith('# why\n# so\n_base_ = ')


# The tool -------------------------------------------------------------------------------------------


def analyze(*words):
    return run('analyze_frequency', *map(str, words))


def finite(node):
    """Every number of plain data."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from finite(child)
    elif isinstance(node, float):
        yield math.isfinite(node)


@pytest.mark.slow
def test_the_tool_searches_and_its_config_trains(here, capfd):
    pytest.importorskip('mmpretrain')
    assert (
        analyze(
            CONFIG, '--out', 'seen', '--num-images', 6, '--seeds', 2,
            '--search', '--max-params', 0.8, '--depths', 1, 2, '--widths', 0.5, 0.75, 1,
        )
        == 0
    )  # fmt: skip
    out = capfd.readouterr().out
    assert '6 of 12 images' in out
    data = json.loads((here / 'seen/frequency.json').read_text())
    assert 'only the abstract is known' in data['note']
    assert all(finite(data))
    assert data['images']['used'] == len(data['images']['files']) == 6
    assert data['seeds'] == [0, 1]
    assert data['trained'] is None
    assert [stage['positions'][0] for stage in data['untrained']] == [16, 8, 4, 2]
    for seen in (data['dataset'], *(stage['curve'] for stage in data['untrained'])):
        assert sum(seen['energy']['share']['mean']) == pytest.approx(1)
        assert len(seen['octaves']) == len(seen['db']['mean'])
    assert [d['of'] for d in data['distances']] == [*(f'stage {i}' for i in (1, 2, 3, 4)), 'mean']
    ranked = data['search']['ranked']
    means = [r['distance']['mean'] for r in ranked]
    assert means == sorted(means)
    assert all(r['params'] <= 0.8e6 for r in ranked)
    assert Image.open(here / 'seen/frequency.png').size[0] > 1000

    nearest = load_config(data['search']['config_of_the_nearest'])
    assert {k: list(v) for k, v in nearest.model.backbone.arch.items()} == ranked[0]['arch']
    code = run(
        'train', 'seen/paca_shapes_nearest.py', '--work-dir', 'work', '--cfg-options',
        'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False', 'default_hooks.checkpoint.interval=1',
    )  # fmt: skip
    out, err = capfd.readouterr()
    assert code == 0, err
    shutil.copy('work/epoch_1.pth', 'trained.pth')

    # And what was trained, beside the untrained, with what is another model's refused.
    words = ['--out', 'seen2', '--num-images', 4, '--seeds', 1]
    assert analyze('seen/paca_shapes_nearest.py', 'trained.pth', *words) == 0
    assert 'stage 1, trained' in capfd.readouterr().out
    data = json.loads((here / 'seen2/frequency.json').read_text())
    assert all(finite(data))
    # The fourth stage has 2 x 2 positions: an energy, but no curve to be compared.
    assert [d['untrained_to_trained'] is None for d in data['distances']] == [False] * 3 + [
        True,
        False,
    ]
    assert analyze(CONFIG, 'trained.pth', *words) == 2
    assert 'trained.pth is not for this model' in capfd.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--images', 'empty'], "no images in 'empty'"),
        (['--images', 'torn'], r'images cannot be read:\n .*bad.png is'),
        (['--images', 'tiny'], '20 x 20 pixels behind the test pipeline; it takes 32 x 32'),
        (['--images', 'plain'], 'all 1 images of plain are of one colour'),
        (['nowhere.pth'], 'there is no checkpoint'),
        (['--search'], 'a search takes a budget'),
        (['--max-macs', 1], 'a search takes a budget'),
        (['--target', 'checkpoint'], 'name the checkpoint'),
        (['--search', '--max-macs', 1e-6, '--depths', 1, '--widths', 1], 'none of the 1 sizes'),
        (['--seeds', 0], '--seeds must be 1 at least'),
        (['--out', 'a_file'], '(?s)a_file cannot be written: .* by --out'),
    ],
)
def test_mistakes_are_one_message(here, capfd, words, message):
    pytest.importorskip('mmpretrain')
    for name in ('empty', 'torn', 'tiny', 'plain'):
        (here / name).mkdir()
    (here / 'a_file').touch()
    (here / 'torn/bad.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(here / 'tiny/a.png')
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(here / 'plain/a.png')
    options = ['--num-images', 2, '--out', 'seen'] if '--out' not in words else ['--num-images', 2]
    assert analyze(CONFIG, *words, *options) == 2
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    assert re.search(message, err), err


def test_a_host_model_has_no_sizes_to_search(here, capfd):
    pytest.importorskip('mmpretrain')
    config = 'configs/cls/attentive_norm/resnet50_an_in1k.py'
    assert analyze(config, '--search', '--max-params', 1) == 2
    assert 'ReplaceNorms has no arch dict' in capfd.readouterr().err
