"""The segmentation head: golden answers, the plain reference, and what mmseg expects of a head."""

import copy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import golden, reference_head
from helpers.rows import MINI
from paca_mm.errors import UserError

pytest.importorskip('mmseg', reason='mmsegmentation is not installed')

from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from paca_mm.models.common import fast_paths
from paca_mm.models.common.recompute import StatisticsKept
from paca_mm.models.paca.head import PaCaHead

BN = dict(type='BN', requires_grad=True)
CE = dict(type='CrossEntropyLoss', avg_non_ignore=True)
DICE = dict(type='DiceLoss', loss_name='loss_dice', loss_weight=3.0)
NORMS = {
    'BN': BN,
    'SyncBN': dict(type='SyncBN', requires_grad=True),
    'GN': dict(type='GN', num_groups=4, requires_grad=True),
    'none': None,
}
#: Feature map sizes: halving, odd, and a first level that is not the largest.
SIZES = {
    'even': [(16, 24), (8, 12), (4, 6), (2, 3)],
    'odd': [(15, 9), (8, 5), (4, 3), (2, 2)],
    'upside_down': [(5, 4), (9, 8), (1, 1), (5, 4)],
}
DIMS = [6, 7, 9, 10]


def mini_head(**kwargs):
    """A small filled head; float32."""
    kwargs = {
        'in_channels': DIMS,
        'channels': 16,
        'num_classes': 5,
        'dropout_ratio': 0.0,
        'norm_cfg': BN,
        'loss_decode': CE,
        **kwargs,
    }
    return golden.fill(PaCaHead(**kwargs))


def feature_maps(sizes=SIZES['even'], dims=DIMS, batch=2):
    return [torch.randn(batch, c, *size) for c, size in zip(dims, sizes, strict=True)]


def samples(labels):
    """Masks (B, H, W) as mmseg hands them to a head."""
    size = tuple(labels.shape[1:])
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
    return [
        SegDataSample(gt_sem_seg=PixelData(data=label[None]), metainfo=dict(meta))
        for label in labels
    ]


def random_labels(height, width, num_classes=5, batch=2, ignored=True):
    labels = torch.randint(0, num_classes, (batch, height, width))
    if ignored:
        labels[:, :3] = 255
    return labels


def weights(head):
    """What the plain reference reads: parameters that take gradients, and copies of the buffers."""
    buffers = {key: value.clone() for key, value in head.named_buffers()}
    return {**dict(head.named_parameters()), **buffers}


def relative(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


# --- the numbers -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def official():
    """The head of the golden answers, its levels, labels and answers."""
    meta, answers = golden.load('seg_head')
    head = PaCaHead(
        meta['in_channels'],
        meta['channels'],
        num_classes=meta['num_classes'],
        dropout_ratio=meta['dropout_ratio'],
        norm_cfg=BN,
        loss_decode=CE,
    )
    head.load_state_dict(golden.state_dict(meta['shapes']), strict=True)
    size = meta['feature_size']
    levels = [
        torch.from_numpy(
            np.random.RandomState(40 + i).randn(2, c, size >> i, size >> i).astype(np.float32)
        )
        for i, c in enumerate(meta['in_channels'])
    ]
    labels = np.random.RandomState(7).randint(0, meta['num_classes'], (2, 4 * size, 4 * size))
    labels[:, :5] = 255
    return head, levels, torch.from_numpy(labels), answers


def test_answers_as_the_official_code(official):
    head, levels, _, answers = official
    with torch.no_grad():
        logits = head.eval()(levels)
    assert relative(logits[:, ::7, ::3, ::3], torch.from_numpy(answers['logits'])) < 5e-6


def test_loses_as_the_official_code(official):
    head, levels, labels, answers = official
    losses = copy.deepcopy(head).train().loss(levels, samples(labels), None)
    assert losses['loss_ce'].item() == pytest.approx(answers['loss_ce'], rel=5e-6)
    assert losses['cluster_loss_ce'].item() == pytest.approx(answers['loss_paca_ce'], rel=5e-6)


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
def test_keys_and_shapes_are_the_official_ones(norm):
    meta, _ = golden.load('seg_head')
    head = PaCaHead(meta['in_channels'], num_classes=150, norm_cfg=NORMS[norm])
    found = {
        key: list(value.shape)
        for key, value in head.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    assert found == meta['shapes']


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize(
    ('sizes', 'align_corners', 'norm', 'with_cp'),
    [
        ('even', False, 'BN', True),
        ('odd', False, 'BN', False),
        ('odd', True, 'BN', True),
        ('upside_down', False, 'BN', True),
        ('upside_down', True, 'GN', True),
        ('odd', False, 'GN', False),
        ('odd', False, 'none', True),
    ],
)
def test_equals_the_plain_reference(sizes, align_corners, norm, with_cp, training):
    head = mini_head(align_corners=align_corners, norm_cfg=NORMS[norm], with_cp=with_cp)
    head.double().train(training)
    levels = [x.double().requires_grad_() for x in feature_maps(SIZES[sizes])]
    expected = reference_head.logits(
        weights(head),
        levels,
        training=training,
        align_corners=align_corners,
        groups=4 if norm == 'GN' else None,
    )
    found = head._forward(levels)
    for out, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(out, exact, rtol=1e-10, atol=1e-11)

    directions = [torch.randn_like(out) for out in expected]
    leaves = [*head.parameters(), *levels]
    names = [name for name, _ in head.named_parameters()] + [f'level {i}' for i in range(4)]
    gradients, exact_gradients = (
        torch.autograd.grad(outs, leaves, directions) for outs in (found, expected)
    )
    for name, gradient, exact in zip(names, gradients, exact_gradients, strict=True):
        # Batch statistics cancel the bias before them: there the exact gradient is zero.
        torch.testing.assert_close(
            gradient, exact, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f'{name}: {m}'
        )


@pytest.mark.parametrize('levels', [[0], [2], [-1], [0, 2], [1, 2, 3], [3, 1]], ids=str)
def test_reads_any_levels(levels):
    dims = [DIMS[i] for i in levels]
    head = mini_head(in_channels=dims, in_index=levels).double().eval()
    maps = [x.double() for x in feature_maps(SIZES['odd'])]
    chosen = [maps[i] for i in levels]
    expected, _ = reference_head.logits(weights(head), chosen, training=False)
    torch.testing.assert_close(head(maps), expected, rtol=1e-10, atol=1e-11)
    if len(levels) == 1:
        same = mini_head(in_channels=dims[0], in_index=levels[0]).double().eval()
        torch.testing.assert_close(same(maps), expected, rtol=1e-10, atol=1e-11)


def test_memory_formats_give_the_same_numbers():
    head = mini_head().double().eval()
    levels = [x.double() for x in feature_maps()]
    channels_last = [x.contiguous(memory_format=torch.channels_last) for x in levels]
    torch.testing.assert_close(head(channels_last), head(levels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_attention_takes_a_fused_kernel(training):
    """Keys in another memory order would be right, but send it to the slow one."""
    head = mini_head(dropout_ratio=0.1).train(training)
    with torch.profiler.profile() as profile:
        head(feature_maps())
    called = {event.key for event in profile.key_averages()}
    assert 'aten::scaled_dot_product_attention' in called
    assert not any('attention_math' in name for name in called)


class LargestTensor(TorchDispatchMode):
    """Watches how many numbers the largest tensor holds that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_never_makes_the_wide_map():
    head = mini_head(channels=16, dropout_ratio=0.1)
    levels = [x.requires_grad_() for x in feature_maps()]
    one_map = 2 * 16 * 16 * 24  # B, D, H, W; the concatenation would be four of them
    with LargestTensor() as largest:
        head.train()(levels).sum().backward()
        head.eval()(levels)
    assert 0 < largest.numel <= one_map


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm, nn.Identity])
def test_statistics_that_are_kept_are_there_meanwhile(norm):
    """torch's SyncBatchNorm refuses to train without ``num_batches_tracked``."""
    norm = norm(4)
    context = StatisticsKept([norm])
    for _ in range(2):
        with context:
            assert getattr(norm, 'num_batches_tracked', 0) is not None
            if isinstance(norm, nn.BatchNorm2d):
                norm(torch.rand(2, 4, 3, 3))
    for name, value in norm.named_buffers():
        assert torch.equal(value, type(norm)(4).get_buffer(name)), name


def test_a_recomputed_batch_counts_once():
    levels = feature_maps()
    kept, recomputed = mini_head(with_cp=False), mini_head(with_cp=True)
    gradients = []
    for head in (kept, recomputed):
        inputs = [x.clone().requires_grad_() for x in levels]
        head.train()(inputs).square().mean().backward()
        gradients.append([x.grad for x in inputs])
    for key, value in kept.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[key]), key
    assert recomputed.convs[0].bn.num_batches_tracked == 1
    assert recomputed.convs[0].bn.momentum == kept.convs[0].bn.momentum
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_kept_graph_runs_backward_twice():
    head = mini_head().train()
    levels = [x.requires_grad_() for x in feature_maps()]
    out = head(levels).square().mean()
    first = torch.autograd.grad(out, levels, retain_graph=True)
    state = copy.deepcopy(head.state_dict())
    second = torch.autograd.grad(out, levels)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(value, state[key]) for key, value in head.state_dict().items())


def test_dropout_drops_whole_channels_as_mmseg_does():
    head = mini_head(dropout_ratio=0.5).double().train()
    feat = torch.randn(3, 16, 4, 5, dtype=torch.float64)
    torch.manual_seed(3)
    found = head.cls_seg(feat)
    torch.manual_seed(3)
    expected = head.conv_seg(head.dropout(feat))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, head.eval().cls_seg(feat))


# --- layers that are watched, replaced or pruned -----------------------------------------------

WATCHED = ['convs.1', 'convs.1.conv', 'convs.1.bn', 'convs.1.activate', 'clustering', 'clustering.0',
           'clustering.0.conv', 'clustering.0.bn', 'clustering.1', 'q', 'q.0', 'q.0.conv', 'q.0.bn',
           'k', 'k.0', 'v.2', 'proj', 'proj.conv', 'proj.bn', 'conv_seg', 'dropout']  # fmt: skip
CONVS = ['convs.1.conv', 'clustering.0.conv', 'clustering.1', 'q.0.conv', 'proj.conv', 'conv_seg']


def as_plain(head, monkeypatch, levels):
    """Logits, scores and the gradients of the levels, in the usual and in the plain form."""
    answers = []
    for plain in (False, True):
        monkeypatch.setattr(fast_paths, 'PLAIN', plain)
        copied = copy.deepcopy(head)
        inputs = [x.clone().requires_grad_() for x in levels]
        torch.manual_seed(3)
        outs = copied._forward(inputs)
        loss = sum(out.square().mean() for out in outs)
        answers.append([*outs, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    return answers[0][0]


def replace(head, path, change):
    parent, _, leaf = path.rpartition('.')
    parent = head.get_submodule(parent)
    parent._modules[leaf] = change(getattr(parent, leaf))


class Times(torch.nn.Module):
    """A stand-in that shows the weight of a layer but computes something else, as LoRA does."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x):
        return 1.5 * self.layer(x)


class OddConv(torch.nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + x.mean()


class OddNorm(torch.nn.BatchNorm2d):
    """As Attentive Normalization: a BatchNorm to everybody who asks, with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * x.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('path', WATCHED)
def test_hooks_fire_once_and_may_change_the_output(path, training, monkeypatch):
    head = mini_head(dropout_ratio=0.2).double().train(training)
    before = as_plain(head, monkeypatch, levels := [x.double() for x in feature_maps()])
    fired = []

    def hook(module, inputs, output):
        fired.append(path)
        return 1.5 * output

    head.get_submodule(path).register_forward_hook(hook)
    after = as_plain(head, monkeypatch, levels)
    if training or path != 'dropout':
        assert len(fired) == 2  # one for each form
        assert not torch.allclose(before, after)


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('kind', ['stand_in', 'subclass', 'pruned', 'parametrised', 'forward'])
@pytest.mark.parametrize('path', CONVS)
def test_convolutions_of_other_kinds(path, kind, training, monkeypatch):
    head = mini_head().double().train(training)
    layer = head.get_submodule(path)
    if kind == 'stand_in':
        replace(head, path, Times)
    elif kind == 'subclass':
        layer.__class__ = OddConv
    elif kind == 'pruned':
        prune.l1_unstructured(layer, 'weight', 0.5)
        layer.weight = (
            layer.weight.detach()
        )  # a graph cannot be copied; the next call makes it again
    elif kind == 'parametrised':
        torch.nn.utils.parametrizations.orthogonal(layer)
    else:
        layer.forward = lambda x: torch.nn.functional.conv2d(x, layer.weight) + 1
    as_plain(head, monkeypatch, [x.double() for x in feature_maps()])


def test_a_pruned_head_trains_for_two_steps():
    head = mini_head().train()
    for path in CONVS:
        prune.l1_unstructured(head.get_submodule(path), 'weight', 0.5)
    for _ in range(2):
        head(feature_maps()).square().mean().backward()
    assert head.q[0].conv.weight_orig.grad.abs().max() > 0


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('path', ['convs.0.bn', 'clustering.0.bn', 'q.0.bn', 'proj.bn', 'k.2'])
def test_norms_of_other_kinds(path, training, monkeypatch):
    head = mini_head().double().train(training)
    head.get_submodule(path).__class__ = OddNorm
    as_plain(head, monkeypatch, [x.double() for x in feature_maps()])


def test_layers_with_spectral_norm(monkeypatch):
    head = mini_head().double()
    width = head.q[0].conv.in_channels
    head.q[0] = ConvModule(width, 16, 1, norm_cfg=BN, with_spectral_norm=True).double()
    as_plain(head.eval(), monkeypatch, [x.double() for x in feature_maps()])


def test_quantised_layers():
    head = mini_head().eval()
    levels = feature_maps()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(head), {torch.nn.Linear})
    with torch.no_grad():
        assert relative(quantised(levels), head(levels)) < 0.05


def test_synced_norms_are_folded_as_others():
    synced, own = (mini_head(norm_cfg=NORMS[norm]).eval() for norm in ('SyncBN', 'BN'))
    levels = feature_maps()
    torch.testing.assert_close(synced(levels), own(levels))


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_the_switch_makes_every_layer_be_called(training, monkeypatch):
    head = mini_head(dropout_ratio=0.2).double().train(training)
    levels = [x.double() for x in feature_maps()]
    as_plain(head, monkeypatch, levels)
    called = set()
    for cls in (torch.nn.Linear, torch.nn.Conv2d):
        monkeypatch.setattr(
            cls, 'forward', lambda self, x, f=cls.forward: called.add(self) or f(self, x)
        )
    layers = {m for m in head.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    monkeypatch.setattr(fast_paths, 'PLAIN', False)
    head(levels)
    assert called < layers
    monkeypatch.setattr(fast_paths, 'PLAIN', True)
    head(levels)
    assert called == layers


def test_a_device_without_autocast():
    head = mini_head().to('meta').eval()
    assert head([x.to('meta') for x in feature_maps()]).shape == (2, 5, 16, 24)


# --- the losses --------------------------------------------------------------------------------

LOSSES = {
    'default': dict(),
    'weighted': dict(cluster_loss_weight=0.7),
    'averaged_over_all': dict(loss_decode=dict(type='CrossEntropyLoss')),
    'two_losses': dict(loss_decode=[CE, DICE]),
    'two_of_a_name': dict(loss_decode=[CE, dict(CE, loss_weight=0.5)]),
    'class_weight': dict(
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 0.5, 1.0, 3.0])
    ),
    'other_ignore_index': dict(ignore_index=3),
    'ohem': dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=200)),
    'ohem_by_loss': dict(sampler=dict(type='OHEMPixelSampler', min_kept=200)),
    'sigmoid': dict(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)),
}


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
def test_every_configured_loss_on_logits_and_clusters(name):
    head = mini_head(**LOSSES[name]).double().train()
    levels = [x.double().requires_grad_() for x in feature_maps(SIZES['odd'])]
    # mmseg's class weights cannot cope with ignored pixels, for any head.
    labels = random_labels(57, 35, ignored=name not in ('class_weight', 'other_ignore_index'))
    data = samples(labels)
    logits, scores = reference_head.logits(weights(head), levels, training=True)
    expected = {
        **head.loss_by_feat(logits, data),
        **{f'cluster_{key}': value for key, value in head.loss_by_feat(scores, data).items()},
    }
    losses = head.loss(levels, data, None)
    assert set(losses) == set(expected)
    assert {'loss_ce', 'acc_seg', 'cluster_loss_ce', 'cluster_acc_seg'} <= set(losses)
    for key, value in losses.items():
        scale = head.cluster_loss_weight if key.startswith('cluster_loss') else 1
        torch.testing.assert_close(value, expected[key] * scale, rtol=1e-9, atol=1e-9)
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if not key.endswith('0.bias'):  # cancelled by the batch statistics that follow
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize('key', ['loss_ce', 'cluster_loss_ce'])
def test_each_loss_reaches_the_levels(key):
    head = mini_head().train()
    levels = [x.requires_grad_() for x in feature_maps()]
    head.loss(levels, samples(random_labels(64, 96)), None)[key].backward()
    assert all(x.grad.abs().max() > 0 for x in levels)
    assert head.clustering[1].weight.grad.abs().max() > 0
    assert (head.conv_seg.weight.grad is not None) == (key == 'loss_ce')


@pytest.mark.filterwarnings('ignore:threshold is not defined', 'ignore:Default ``avg_non_ignore``')
def test_one_logit_for_two_classes():
    head = mini_head(
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    levels = feature_maps()
    losses = head.train().loss(levels, samples(random_labels(64, 96, num_classes=2)), None)
    (losses['loss_ce'] + losses['cluster_loss_ce']).backward()
    assert head.clustering[1].weight.shape[0] == 2
    assert head.q[0].conv.weight.grad.abs().max() > 0
    logits = head.eval()(levels)
    assert logits.shape == (2, 1, 16, 24)
    assert logits.std((2, 3)).min() > 0  # with a single cluster, all pixels would be alike
    _, scores = head._forward(levels)
    _, both = reference_head.logits(weights(head), levels, training=False)
    torch.testing.assert_close(scores.sigmoid(), both.softmax(1)[:, 1:], rtol=1e-4, atol=1e-5)


# --- norms and number types --------------------------------------------------------------------


def test_synced_norms_train_on_a_cpu_once_reverted():
    head = revert_sync_batchnorm(mini_head(norm_cfg=NORMS['SyncBN'])).train()
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in head.modules())
    twin = mini_head(norm_cfg=BN).train()
    levels, data = feature_maps(), samples(random_labels(64, 96))
    losses, expected = (h.loss(levels, data, None) for h in (head, twin))
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    (losses['loss_ce'] + losses['cluster_loss_ce']).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize('norm', NORMS)
def test_every_norm_follows_the_config(norm):
    head = mini_head(norm_cfg=NORMS[norm])
    found = {
        type(m).__name__
        for m in head.modules()
        if type(m).__name__ in ('BatchNorm2d', 'SyncBatchNorm', 'GroupNorm')
    }
    names = {'BN': 'BatchNorm2d', 'SyncBN': 'SyncBatchNorm', 'GN': 'GroupNorm'}
    assert found == ({names[norm]} if norm in names else set())
    assert head.eval()(feature_maps()).isfinite().all()


@pytest.mark.parametrize('norm', ['BN', 'GN', 'none'])
def test_autocast_bf16(norm):
    head = mini_head(norm_cfg=NORMS[norm])
    levels = [x.requires_grad_() for x in feature_maps()]
    data = samples(random_labels(64, 96))
    exact = copy.deepcopy(head).train().loss(levels, data, None)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.train().loss(levels, data, None)
        assert head(levels).dtype == torch.bfloat16
    for key in ('loss_ce', 'cluster_loss_ce'):
        torch.testing.assert_close(losses[key].float(), exact[key], rtol=0.03, atol=0.03)
    (losses['loss_ce'] + losses['cluster_loss_ce']).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_a_large_map_in_half_precision_keeps_its_weights():
    """1 / 200000 is subnormal in fp16: the cluster tokens must not lose it."""
    head = mini_head(in_channels=DIMS[:1], channels=4, num_classes=2, norm_cfg=None)
    level = torch.ones(1, 4, 400, 500)
    scores = torch.zeros(1, 2, 400, 500)
    tokens = head._pool(scores.half(), [level.half()])
    torch.testing.assert_close(tokens.float(), torch.ones(1, 2, 4), rtol=1e-3, atol=1e-3)


# --- mmseg's segmentors ------------------------------------------------------------------------

HEAD = dict(
    type='paca_mm.PaCaHead',
    in_channels=list(MINI['embed_dims']),
    channels=16,
    num_classes=5,
    norm_cfg=BN,
    loss_decode=CE,
)


def segmentor(fill=True, **kwargs):
    config = {
        'type': 'EncoderDecoder',
        'backbone': dict(type='paca_mm.PaCaViT', arch=MINI, num_clusters=(7, 5, 3, 0)),
        'decode_head': HEAD,
        'train_cfg': dict(),
        'test_cfg': dict(mode='whole'),
        **kwargs,
    }
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(ConfigDict(copy.deepcopy(config)))
    return golden.fill(model) if fill else model


def train_step(model, height=70, width=90):
    """One forward and backward pass; the losses."""
    image = golden.image(2, height, width)
    losses = model.train().loss(image, samples(random_labels(height, width)))
    total, _ = model.parse_losses(losses)
    total.backward()
    return losses


def test_trains_in_the_stock_segmentor():
    model = segmentor()
    losses = train_step(model)
    assert set(losses) == {
        'decode.loss_ce',
        'decode.acc_seg',
        'decode.cluster_loss_ce',
        'decode.cluster_acc_seg',
    }
    total, log = model.parse_losses(losses)
    assert total.item() == pytest.approx(
        log['decode.loss_ce'].item() + log['decode.cluster_loss_ce'].item()
    )
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('align_corners', [False, True])
def test_slide_equals_whole_where_the_crop_covers_the_image(align_corners):
    model = segmentor(decode_head=dict(HEAD, align_corners=align_corners)).eval()
    image = golden.image(1, 70, 90)

    def predict(**test_cfg):
        model.test_cfg = ConfigDict(test_cfg)
        with torch.no_grad():
            result = model.predict(image)[0]
        assert result.pred_sem_seg.data.shape == (1, 70, 90)
        return result.seg_logits.data

    whole = predict(mode='whole')
    assert whole.shape == (5, 70, 90)
    slide = predict(mode='slide', crop_size=(70, 90), stride=(40, 40))
    torch.testing.assert_close(slide, whole, rtol=1e-5, atol=1e-5)
    smaller = predict(mode='slide', crop_size=(48, 48), stride=(32, 32))
    assert smaller.isfinite().all()
    assert not torch.allclose(smaller, whole)


def test_test_time_augmentation():
    model = segmentor().eval()
    with DefaultScope.overwrite_default_scope('mmseg'):
        tta = MODELS.build(dict(type='SegTTAModel', module=model))
    image = golden.image(1, 64, 64)
    views = []
    for flip, view in ((False, image), (True, image.flip(3))):
        data = samples(random_labels(64, 64, batch=1))
        data[0].set_metainfo(dict(flip=flip, flip_direction='horizontal', img_path='a.png'))
        with torch.no_grad():
            views.append(model.predict(view, data)[0])
    merged = tta.merge_preds([views])[0]
    assert merged.pred_sem_seg.data.shape == (1, 64, 64)


def test_first_stage_of_a_cascade():
    second = dict(
        type='OCRHead',
        in_channels=MINI['embed_dims'][0],
        in_index=0,
        channels=8,
        ocr_channels=8,
        num_classes=5,
        norm_cfg=BN,
        loss_decode=CE,
    )
    model = segmentor(type='CascadeEncoderDecoder', num_stages=2, decode_head=[HEAD, second])
    losses = train_step(model)
    assert {'decode_0.loss_ce', 'decode_0.cluster_loss_ce', 'decode_1.loss_ce'} <= set(losses)
    with torch.no_grad():
        assert model.eval().predict(golden.image(1, 64, 64))[0].seg_logits.shape == (64, 64)


@pytest.mark.parametrize('many', [False, True], ids=['one', 'two'])
def test_auxiliary_head(many):
    auxiliary = dict(HEAD, in_channels=HEAD['in_channels'][1:3], in_index=[1, 2])
    model = segmentor(auxiliary_head=[auxiliary, auxiliary] if many else auxiliary)
    losses = train_step(model)
    for name in ['aux_0', 'aux_1'] if many else ['aux']:
        assert {f'{name}.loss_ce', f'{name}.cluster_loss_ce'} <= set(losses)
    assert all(p.grad is not None for p in model.parameters())


def test_reverted_segmentor_trains_and_learns():
    model = segmentor(fill=False, decode_head=dict(HEAD, norm_cfg=NORMS['SyncBN']))
    model = revert_sync_batchnorm(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    image = golden.image(2, 64, 64)
    coarse = (F.avg_pool2d(image[:, 0], 32, 32) > 0).long()  # B, 2, 2
    data = samples(coarse.repeat_interleave(32, 1).repeat_interleave(32, 2))
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        total, log = model.train().parse_losses(model.loss(image, data))
        total.backward()
        optimizer.step()
        history.append((log['decode.loss_ce'].item(), log['decode.cluster_loss_ce'].item()))
    assert all(last < 0.9 * first for first, last in zip(history[0], history[-1], strict=True)), (
        history
    )


def test_an_official_segmentor_loads_strictly():
    meta, _ = golden.load('seg_head')
    model = segmentor(
        fill=False,
        backbone=dict(
            type='paca_mm.PaCaViT',
            arch=dict(MINI, embed_dims=tuple(meta['in_channels']), num_heads=(2, 2, 2, 2)),
            num_clusters=(2, 2, 2, 0),
        ),
        decode_head=dict(HEAD, in_channels=meta['in_channels'], channels=256, num_classes=150),
    )
    state = {f'backbone.{key}': value for key, value in model.backbone.state_dict().items()}
    state |= {f'decode_head.{k}': v for k, v in golden.state_dict(meta['shapes']).items()}
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.decode_head.k[2].weight, state['decode_head.k.2.weight'])


# --- wrong on purpose --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(in_index=[0, 1]), 'same number of levels'),
        (dict(in_channels=[], in_index=[]), 'at least one'),
        (dict(num_classes=1), 'num_classes=2'),
        (dict(cluster_loss_weight=-1), '0 or more'),
        (dict(input_transform='resize_concat'), 'leave input_transform out'),
        (dict(conv_cfg=dict(type='DCNv2')), 'leave conv_cfg out'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        mini_head(**arguments)


def test_wrong_feature_maps_are_named():
    head = mini_head()
    with pytest.raises(UserError, match=r'in_channels=\[6, 7, 9, 10\].*set in_channels=\[6, 7, 8'):
        head(feature_maps(dims=[6, 7, 8, 10]))
    with pytest.raises(UserError, match=r'in_index=\[0, 1, 2, 3\].*3 feature map'):
        head(feature_maps()[:3])


@pytest.mark.slow
def test_without_mmseg_the_backbone_works_and_the_head_names_the_cure():
    code = """
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == 'mmseg':
                    raise ModuleNotFoundError(f'No module named {name!r}')

        sys.meta_path.insert(0, Absent())
        from mmengine.registry import MODELS

        arch = dict(embed_dims=[8], num_heads=[1], depths=[1], mlp_ratios=[1])
        MODELS.build(dict(type='paca_mm.PaCaViT', arch=arch, out_indices=[0]))
        try:
            MODELS.build(dict(type='paca_mm.PaCaHead', in_channels=[96], num_classes=2))
        except ImportError as e:
            print('message:', e)
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "needs the package 'mmseg'" in result.stdout
    assert 'pip install' in result.stdout
