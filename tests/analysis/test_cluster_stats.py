"""Statistics of clusters: right values on cases that one can count, slow sums, and the command."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny import tiny, write_config, write_shapes
from helpers.tool import run
from paca_mm.analysis.build import build
from paca_mm.analysis.cluster_stats import measures
from paca_mm.analysis.cluster_stats.collect import load_samples, measured, untrained_model
from paca_mm.analysis.cluster_stats.tally import FIGURES, OF_LABELS, Tally
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError


def random(*shape, seed=0):
    return np.random.RandomState(seed).rand(*shape)


def assignment(clusters, *positions, seed=0):
    z = random(clusters, *positions, seed=seed) ** 4
    return z / z.reshape(clusters, -1).sum(1).reshape(-1, *[1] * len(positions))


def test_uniform_assignments():
    z = np.full((7, 30), 1 / 30)
    assert measures.position_entropy(z) == pytest.approx(math.log(7), rel=1e-12)
    assert measures.cluster_entropy(z) == pytest.approx(math.log(30), rel=1e-12)
    assert measures.overlap(z) == pytest.approx(1, rel=1e-12)


def test_clusters_that_share_no_position():
    z = np.kron(np.eye(5), np.full((1, 4), 1 / 4))  # four positions each
    assert measures.position_entropy(z) == 0
    assert measures.cluster_entropy(z) == pytest.approx(math.log(4), rel=1e-12)
    assert measures.overlap(z) == pytest.approx(0, abs=1e-12)


def test_as_slow_sums_count_it():
    z = assignment(5, 11)
    z[:, 3] = 0  # a position that no cluster has
    z /= z.sum(1, keepdims=True)
    pairs = [
        sum(math.sqrt(z[i, n] * z[j, n]) for n in range(11))
        for i, j in itertools.combinations(range(5), 2)
    ]
    assert measures.overlap(z) == pytest.approx(np.mean(pairs), rel=1e-12)
    spread = [-sum(p * math.log(p) for p in row if p > 0) for row in z]
    assert measures.cluster_entropy(z) == pytest.approx(np.mean(spread), rel=1e-12)
    shares = [column / column.sum() for column in z.T if column.any()]
    undecided = [-sum(p * math.log(p) for p in share if p) for share in shares]
    assert len(undecided) == 10
    assert measures.position_entropy(z) == pytest.approx(np.mean(undecided), rel=1e-12)
    assert measures.overlap(z[:1]) == 0.0


def test_a_perfect_partition():
    """Clusters that are the classes under other numbers: all there is to know, IoU 1."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    counts = measures.contingency((labels + 4) % 7, labels, 7, 3)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert measures.label_entropy(counts) == pytest.approx(entropy, rel=1e-12)
    assert measures.mutual_information(counts) == pytest.approx(entropy, rel=1e-12)
    np.testing.assert_allclose(measures.best_iou(counts), 1)
    # Finer clusters know as much; their IoU is that of the largest piece.
    finer = np.arange(100) // 10
    counts = measures.contingency(finer, labels, 10, 3)
    assert measures.mutual_information(counts) == pytest.approx(entropy, rel=1e-12)
    np.testing.assert_allclose(measures.best_iou(counts), [10 / 50, 10 / 30, 10 / 20])


def test_a_partition_that_knows_nothing():
    partition, labels = (grid.ravel() for grid in np.mgrid[:4, :3])
    counts = measures.contingency(partition, labels, 4, 3)
    assert measures.mutual_information(counts) == pytest.approx(0, abs=1e-12)
    assert measures.label_entropy(counts) == pytest.approx(math.log(3), rel=1e-12)
    np.testing.assert_allclose(measures.best_iou(counts), 1 / (3 + 4 - 1))


def test_information_and_iou_as_slow_sums_count_them():
    rng = np.random.RandomState(1)
    partition, labels = rng.randint(4, size=200), rng.randint(5, size=200)
    labels[labels == 3] = 255  # no class, and 3 has no pixel
    counts = measures.contingency(partition, labels, 4, 5)
    known = labels != 255
    a, b = partition[known], labels[known]
    n = len(b)
    expected = 0.0
    for i, j in itertools.product(range(4), range(5)):
        both = np.mean((a == i) & (b == j))
        if both:
            expected += both * math.log(both / (np.mean(a == i) * np.mean(b == j)))
        assert counts[i, j] == np.sum((a == i) & (b == j))
    assert counts.sum() == n
    assert measures.mutual_information(counts) == pytest.approx(expected, rel=1e-12)
    found = measures.best_iou(counts)
    for j in range(5):
        ious = [np.sum((a == i) & (b == j)) / np.sum((a == i) | (b == j)) for i in range(4)]
        assert found[j] == pytest.approx(max(ious)) if j != 3 else math.isnan(found[j])


def test_no_label_at_all():
    counts = measures.contingency(np.zeros(4, int), np.full(4, 255), 2, 3)
    assert measures.mutual_information(counts) == measures.label_entropy(counts) == 0
    assert np.isnan(measures.best_iou(counts)).all()


def test_positions_lie_over_their_pixels():
    partition = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(
        measures.enlarged(partition, (8, 12), (8, 12), (8, 12)), np.kron(partition, np.ones((4, 4)))
    )
    # An image of 8 x 8 that was padded to the right: the last column of positions is padding.
    padded = measures.enlarged(partition, (8, 12), (8, 8), (16, 16))
    np.testing.assert_array_equal(padded, np.kron(partition[:, :2], np.ones((8, 8))))
    np.testing.assert_array_equal(
        measures.resized(partition, (4, 6)), np.kron(partition, np.ones((2, 2)))
    )


def filled(labels, others, partition, clusters=3, classes=2):
    """A tally of images whose clusters lie as a partition says."""
    tally = Tally('stage 1', clusters, classes)
    for own, other, part in zip(labels, others, partition, strict=True):
        z = np.stack([part == m for m in range(clusters)]).astype(float)
        z /= np.maximum(z.sum((1, 2), keepdims=True), 1)
        size = part.shape
        tally.add(z, np.full(clusters, 1 / clusters), size, size, own, other)
    return tally.figures()


def test_figures_of_a_perfect_stage():
    """Of two images; cluster 2 is never used."""
    labels = [np.repeat([[0, 1]], 4, 0), np.array([[0, 0], [1, 1]])]
    figures = filled(labels, labels[::-1], labels)
    assert figures['alive'] == 2
    assert figures['alive_in_image'] == 2
    assert figures['read'] == pytest.approx(3)
    assert figures['information'] == pytest.approx(1)
    assert figures['information_in_image'] == pytest.approx(1)
    assert figures['best_iou'] == figures['best_iou_in_image'] == 1
    assert figures['information_by_chance'] == pytest.approx(0, abs=1e-12)
    assert figures['position_entropy'] == 0
    assert set(figures) == set(FIGURES)


def test_clusters_that_change_their_meaning_are_seen_in_images_alone():
    labels = [np.repeat([[0, 1]], 2, 0)] * 2
    figures = filled(labels, labels, [labels[0], 1 - labels[0]])
    assert figures['information_in_image'] == pytest.approx(1)
    assert figures['best_iou_in_image'] == 1
    assert figures['information'] == pytest.approx(0, abs=1e-12)
    assert figures['best_iou'] == pytest.approx(2 / (4 + 4 - 2))


def test_without_labels_there_are_no_figures_on_them():
    tally = Tally('stage 1', 3, None)
    tally.add(assignment(3, 4, 4), np.array([0.5, 0.5, 0]), (16, 16), (16, 16))
    figures = tally.figures()
    assert all(figures[name] is None for name in OF_LABELS)
    assert figures['read'] == pytest.approx(2)
    assert tally.by_class() is None


def test_instances_become_a_label_map():
    mmdet = pytest.importorskip('mmdet.structures')
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, :2] = 1
    masks[1] = 1  # larger: it lies below
    sample = mmdet.DetDataSample()
    assert TASKS['det'].label_map(sample) is None
    sample.gt_instances = InstanceData(labels=np.array([3, 1]), masks=BitmapMasks(masks, 4, 4))
    np.testing.assert_array_equal(
        TASKS['det'].label_map(sample), np.repeat([4, 4, 2, 2], 4).reshape(4, 4)
    )
    assert TASKS['det'].label_names(('a',)) == ('(background)', 'a')


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path)
    return tmp_path


def test_a_model_is_measured_as_its_own_maps_say(here):
    pytest.importorskip('mmseg')
    cfg = tiny('seg', here / 'a.py')
    model, samples = untrained_model(cfg, 3), load_samples(cfg)
    assert len(samples.classes) == 7
    assert samples.chosen[0].labels.shape == samples.chosen[0].shape == (128, 128)
    tallies = measured(model, samples)
    assert [tally.name for tally in tallies] == ['stage 1', 'stage 2', 'stage 3', 'head']
    packed = [sample.packed for sample in samples.chosen]
    batch = {key: [p[key] for p in packed] for key in ('inputs', 'data_samples')}
    x = model.data_preprocessor(batch, False)['inputs']
    z = model.backbone.cluster_assignments(x)[1].detach().double().numpy()
    figures = tallies[1].figures()
    expected = np.mean([measures.overlap(image.reshape(3, -1)) for image in z])
    assert figures['overlap'] == pytest.approx(expected, rel=1e-5)
    assert figures['alive'] == len(np.unique(z.argmax(1)))
    counts = sum(
        measures.contingency(np.kron(image.argmax(0), np.ones((8, 8), int)), s.labels, 3, 7)
        for image, s in zip(z, samples.chosen, strict=True)
    )
    expected = measures.mutual_information(counts) / measures.label_entropy(counts)
    assert figures['information'] == pytest.approx(expected, rel=1e-6)
    again = measured(untrained_model(cfg, 3), samples)[1].figures()
    assert again == figures  # a seed is a network


@pytest.mark.slow
def test_the_command_on_every_task(here, capsys):
    hosts = {'seg': 'mmseg', 'det': 'mmdet', 'cls': 'mmpretrain'}
    for task, host in hosts.items():
        pytest.importorskip(host)
        write_config(here / f'{task}.py', task)
        torch.save(build(load_config(f'{task}.py')).state_dict(), here / 'a.pth')
        seeds = ['0', '5'] if task == 'seg' else ['5']
        words = f'{task}.py', 'a.pth', '--seeds', *seeds, '--out', f'out_{task}'
        assert run('analyze_clusters', *words) == 0
        said = capsys.readouterr().out
        data = json.loads((here / f'out_{task}/cluster_stats.json').read_text())
        stages = {stage['name']: stage for stage in data['stages']}
        assert ('head' in stages) == (task == 'seg')
        first = stages['stage 1']
        assert [str(seed['seed']) for seed in first['untrained']] == seeds
        assert first['clusters'] == 3
        assert 0 < first['trained']['alive'] <= 3
        with Image.open(here / f'out_{task}/cluster_stats.png') as image:
            width, height = image.size
        if task == 'cls':
            assert 'no columns on labels: the labels of this task are of complete images' in said
            assert 'information' not in first['trained']
            assert data['classes'] is None
            assert height < width / 2  # three panels
            continue
        assert 'what they tell about the labels' in said
        assert height > width / 2
        assert 0 <= first['trained']['information'] <= 1
        assert len(first['trained']['by_class']) == 7
        assert data['classes'][0] == ('(background)' if task == 'det' else 'background')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(backbone="dict(_delete_=True, type='mmseg.ResNet', depth=18)"),
         r"the backbone of this model is ResNet, which has no clusters.*paca_mm\.PaCaViT"),
        (dict(backbone='dict(num_clusters=(0, 0, 0, 0))'), 'no stage of this PaCaViT has clusters'),
        (dict(data='nothing'), r'nothing.*does not exist|has no images'),
        (dict(words=['--num-images', '0']), '--num-images must be 1 at least'),
        (dict(words=['--block', '7']), r'no stage has a block 7: they have \(1, 1, 1, 1\)'),
        (dict(words=['gone.pth']), 'there is no checkpoint'),
    ],
)  # fmt: skip
def test_wrong_on_purpose(here, change, message, capsys):
    pytest.importorskip('mmseg')
    rest = ''
    if backbone := change.get('backbone'):
        rest = f'model = dict(backbone={backbone})'
    write_config(here / 'a.py', 'seg')
    (here / 'b.py').write_text(f"_base_ = './a.py'\n{rest}\n")
    words = list(change.get('words', ()))
    if 'data' in change:
        (here / 'nothing/masks/val').mkdir(parents=True)
        (here / 'nothing/val').mkdir()
        words += ['--cfg-options', 'val_dataloader.dataset.data_root=nothing']
    assert run('analyze_clusters', 'b.py', *words, '--seeds', '0') == 2
    said = capsys.readouterr().err
    assert re.search(f'(?s)error: .*(?:{message})', said)
    assert not (here / 'work_dirs').exists()


def test_masks_that_are_not_loaded_are_said(here):
    pytest.importorskip('mmseg')
    cfg = tiny('seg', here / 'a.py')
    steps = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline = [s for s in steps if s.type != 'LoadAnnotations']
    samples = load_samples(cfg)
    assert samples.classes is None
    assert 'loads no masks (LoadAnnotations)' in samples.why_none


def test_a_config_without_data_is_one_message(here):
    pytest.importorskip('mmseg')
    cfg = tiny('seg', here / 'a.py')
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    with pytest.raises(UserError, match='val_dataloader has no images, so there is nothing'):
        load_samples(cfg)
