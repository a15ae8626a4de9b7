"""The norms against the official answers, a float64 reference, and all who ask what they are."""

import copy
import io
import re

import numpy as np
import pytest
import torch
import torch.nn as nn
from attentive_norm import reference
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.cnn import fuse_conv_bn as fuse
from mmengine.model import constant_init, convert_sync_batchnorm
from mmengine.model import revert_sync_batchnorm as mmengine_revert
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import golden
from paca_mm.errors import UserError
from paca_mm.models import AttnBN, AttnGN, AttnSyncBN
from paca_mm.models.attentive_norm.attention import ATTENTIONS
from paca_mm.models.common.norms import revert_sync_batchnorm

MODES = list(ATTENTIONS)
KINDS = {'bn': AttnBN, 'sync': AttnSyncBN, 'gn': AttnGN}


def make(kind, channels=12, **kwargs):
    """A filled norm."""
    if kind == 'gn':
        kwargs.setdefault('num_groups', 4)
    return golden.fill(KINDS[kind](channels, **{'num_mixtures': 3, **kwargs}))


def images(channels=12, batch=4, height=5, width=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    return (2 * x + torch.randn(1, channels, 1, 1, generator=generator)).to(dtype)


def answer_of(norm, x):
    """What the reference says, from the state of the norm before it is called."""
    w = {key: value.clone() for key, value in norm.state_dict().items()}
    w.update(norm.named_parameters())  # with their gradients
    if isinstance(norm, nn.GroupNorm):
        return reference.attn_gn(w, x, norm.attention, norm.num_groups)
    return reference.attn_bn(w, x, norm.attention, norm.training)


# ---- the numbers


@pytest.mark.parametrize('name', ['an_bn', 'an_gn'])
def test_official_answers(name):
    meta, answers = golden.load(name)
    answers = {key: torch.from_numpy(value) for key, value in answers.items()}
    kwargs = dict(num_mixtures=meta['k'], attention=MODES[meta['mode']])
    if name == 'an_gn':
        norm = AttnGN(meta['channels'], meta['groups'], **kwargs)
    else:
        norm = AttnBN(meta['channels'], **kwargs)
    counts = {k: v for k, v in norm.state_dict().items() if k.endswith('num_batches_tracked')}
    norm.load_state_dict({**golden.state_dict(meta['shapes']), **counts}, strict=True)
    random = np.random.RandomState(meta['channels'])
    x = random.randn(4, meta['channels'], 7, 9) * 2 + random.randn(1, meta['channels'], 1, 1)
    x = torch.from_numpy(x.astype(np.float32)).requires_grad_()

    y = norm.train()(x)
    torch.testing.assert_close(y, answers['train_out'], rtol=1e-5, atol=1e-5)
    (y.square().mean() + y.mean()).backward()
    torch.testing.assert_close(x.grad, answers['grad'], rtol=1e-4, atol=1e-7)
    parameters = dict(norm.named_parameters())
    assert [*parameters] == meta['parameters']
    norms = torch.stack([parameters[key].grad.norm() for key in meta['parameters']])
    torch.testing.assert_close(norms, answers['grad_norms'].to(norms), rtol=1e-4, atol=1e-6)
    for key, value in norm.state_dict().items():
        if f'after_{key}' in answers:
            torch.testing.assert_close(value, answers[f'after_{key}'], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.eval()(x), answers['eval_out'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('attention', MODES)
@pytest.mark.parametrize('kind', KINDS)
def test_every_weight_function_is_the_reference(kind, attention):
    norm, x = make(kind, attention=attention).double(), images(dtype=torch.float64)
    for training in (True, False):
        norm.train(training)
        results = []
        for compute in (lambda x, norm=norm: answer_of(norm, x), norm):
            norm.zero_grad()
            z = x.clone().requires_grad_()
            y = compute(z)
            (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            results.append([y, z.grad, *(p.grad.clone() for p in norm.parameters())])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kind', ['bn', 'gn'])
def test_gradients_are_the_numeric_ones(kind):
    norm = make(kind, 4, num_groups=2) if kind == 'gn' else make(kind, 4)
    norm.double()
    x = images(4, 3, 2, 3, torch.float64).requires_grad_()
    values = [*norm.parameters()]

    def run(x, *_):
        return norm(x)

    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(lambda x: norm(x), (x,))


@pytest.mark.parametrize('momentum', [0.1, 0.3, None])
def test_running_statistics_are_those_of_batch_norm(momentum):
    norm, plain = make('bn', momentum=momentum), nn.BatchNorm2d(12, momentum=momentum)
    plain.load_state_dict({k: v for k, v in norm.state_dict().items() if 'running' in k}, False)
    for seed in range(3):
        x = images() + seed
        norm(x), plain(x)
    for key in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(norm, key), getattr(plain, key))
    x = images()
    own = copy.deepcopy(norm)
    own.track_running_stats = False
    own.running_mean = own.running_var = None
    torch.testing.assert_close(own.train()(x), copy.deepcopy(norm).train()(x))


def test_a_large_mean_costs_no_digits():
    """Values around 1000 with a deviation of 1: moments of squares would lose all of float32."""
    x = images(dtype=torch.float64) + 1000
    norm = make('bn')
    exact = copy.deepcopy(norm).double()(x)
    torch.testing.assert_close(norm(x.float()), exact.float(), rtol=1e-3, atol=2e-3)


def test_a_single_position_is_no_nan():
    for kind in KINDS:
        y = make(kind)(images(height=1, width=1))
        assert y.isfinite().all()


def test_any_memory_order_and_any_number_of_positions():
    for kind in KINDS:
        norm, x = make(kind).eval(), images()
        y = norm(x.to(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, norm(x))
    norm = make('gn')
    torch.testing.assert_close(norm(images().flatten(2)), norm(images()).flatten(2))


@pytest.mark.parametrize('attention', MODES)
def test_the_published_initialisation(attention):
    torch.manual_seed(0)
    norm = AttnBN(512, 20, attention)
    assert abs(norm.weight_.mean() - 1) < 0.01
    assert abs(norm.weight_.std() - 0.1) < 0.01
    assert abs(norm.bias_.mean()) < 0.01
    assert abs(norm.bias_.std() - 0.1) < 0.01
    outputs = norm.attention_weights.attention[0].out_channels
    std = (2 / outputs) ** 0.5  # He's, by what leaves the layer
    assert abs(norm.attention_weights.attention[0].weight.std() / std - 1) < 0.03
    first = norm.attention_weights.attention[1]
    if isinstance(first, nn.BatchNorm2d):
        assert first.weight.eq(1).all()
        assert first.bias.eq(0).all()


def test_half_precision_has_its_variance_in_float32():
    """A deviation of 1000 has a variance that float16 cannot hold."""
    x = 1000 * images()
    for kind in KINDS:
        norm = make(kind)
        exact = copy.deepcopy(norm)(x)
        for dtype in (torch.bfloat16, torch.float16):
            z = x.to(dtype).requires_grad_()
            with torch.autocast('cpu', torch.bfloat16):
                y = copy.deepcopy(norm)(z)
            assert y.dtype == dtype
            tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-3
            assert (y.float() - exact).norm() / exact.norm() < tolerance
            y.float().square().mean().backward()
            assert z.grad.dtype == dtype
            assert z.grad.isfinite().all()
        half = copy.deepcopy(norm).to(torch.bfloat16)
        assert half(x.bfloat16()).isfinite().all()


def test_statistics_under_autocast_are_exact():
    norm = make('bn')
    exact = copy.deepcopy(norm)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(norm(images()), exact(images()))
    torch.testing.assert_close(norm.running_var, exact.running_var)


# ---- who asks


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_mmcv_builds_them_in_every_scope(scope):
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        name, norm = build_norm_layer(dict(type='paca_mm.AttnBN', num_mixtures=5), 16, 2)
        assert (name, type(norm), norm.num_mixtures, norm.num_features) == ('bn2', AttnBN, 5, 16)
        cfg = dict(type='paca_mm.AttnGN', num_groups=8, requires_grad=False)
        name, norm = build_norm_layer(cfg, 16)
        assert (name, type(norm), norm.num_groups, norm.num_channels) == ('gn', AttnGN, 8, 16)
        assert not any(p.requires_grad for p in norm.parameters())


def test_they_are_the_norms_they_derive_from():
    assert isinstance(make('bn'), nn.BatchNorm2d)
    assert isinstance(make('bn'), _BatchNorm)
    assert isinstance(make('gn'), nn.GroupNorm)
    assert isinstance(make('sync'), AttnBN)
    assert not isinstance(make('sync'), nn.SyncBatchNorm)  # which DDP refuses on a CPU
    words = repr(make('bn'))
    assert 'num_mixtures=3' in words
    assert 'momentum=0.1' in words


def test_norm_decay_spares_the_mixture_and_not_the_attention():
    model = nn.Sequential(nn.Conv2d(12, 12, 1), make('bn'), make('gn'))
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1, weight_decay=0.5),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    )
    wrapper = build_optim_wrapper(model, cfg)
    decays = {
        name: group['weight_decay']
        for name, group in zip(
            dict(model.named_parameters()), wrapper.optimizer.param_groups, strict=True
        )
    }
    for key in ('1.weight_', '1.bias_', '2.weight_', '2.bias_'):
        assert decays[key] == 0
    assert decays['1.attention_weights.attention.1.weight'] == 0
    assert decays['0.weight'] == decays['1.attention_weights.attention.0.weight'] == 0.5


def test_a_hosts_initialisers_leave_the_mixture_alone():
    module = ConvModule(3, 12, 3, norm_cfg=dict(type='paca_mm.AttnBN', num_mixtures=3))
    module.init_weights()
    constant_init(module.norm, 0)
    assert abs(module.norm.weight_.mean() - 1) < 0.2
    assert module.norm.weight_.std() > 0


def test_conv_and_norm_are_not_folded_into_one():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), make('bn')).eval()
    with pytest.raises(AttributeError, match='mixed again for every image'):
        fuse(model)
    with pytest.raises(AttributeError, match='mixed again'):
        torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    module = ConvModule(3, 12, 1, norm_cfg=dict(type='paca_mm.AttnBN', num_mixtures=3)).eval()
    module.turn_on_efficient_conv_bn_eval(True)
    with pytest.raises(AttributeError, match='mixed again'):
        module(images(3))


def test_conversions_never_lose_the_mixture():
    model = nn.Sequential(make('sync'), nn.SyncBatchNorm(12), make('bn'), make('gn'))
    for convert in (convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm):
        with pytest.raises(AttributeError, match=r'AttnSyncBN has no .*paca_mm\.AttnSyncBN'):
            convert(model)
    assert [type(m) for m in mmengine_revert(copy.deepcopy(model))[:1]] == [AttnSyncBN]

    model[0].attention_weights.eval()
    reverted = revert_sync_batchnorm(model)
    kinds = [AttnBN, type(mmengine_revert(nn.SyncBatchNorm(12))), AttnBN, AttnGN]
    assert [type(m) for m in reverted] == kinds
    assert type(reverted[0].attention_weights.attention[1]) is nn.BatchNorm2d
    assert reverted[0].training
    assert not reverted[0].attention_weights.training
    for key, value in model[0].state_dict(keep_vars=True).items():
        assert reverted[0].state_dict(keep_vars=True)[key] is value
    again = reverted[0].with_sync()
    assert type(again) is AttnSyncBN
    torch.testing.assert_close(again(images()), make('bn')(images()), rtol=0.1, atol=5)
    assert type(revert_sync_batchnorm(make('sync'))) is AttnBN


def test_norm_eval_and_freezing_take_all_of_it():
    norm = make('bn').eval()
    before = copy.deepcopy(norm.state_dict())
    norm(images())
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('kind', KINDS)
def test_copies_and_pickles_are_the_norm(kind):
    norm, x = make(kind).eval(), images()
    stream = io.BytesIO()
    torch.save(norm, stream)
    stream.seek(0)
    for other in (copy.deepcopy(norm), torch.load(stream, weights_only=False)):
        assert torch.equal(norm(x), other(x))


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_compiles_as_one_graph(kind):
    norm, x = make(kind), images().requires_grad_()
    other = torch.compile(copy.deepcopy(norm), backend='eager', fullgraph=True)
    for training in (True, False):
        norm.train(training)
        other.train(training)
        expected, found = norm(x), other(x)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (expected, found)]
        torch.testing.assert_close(*gradients)
    torch._dynamo.reset()


def test_gradients_of_each_image_by_functorch():
    norm, x = make('bn').eval(), images()

    def loss(x):
        return norm(x[None]).square().sum()

    found = torch.func.vmap(torch.func.grad(loss))(x)
    z = x.clone().requires_grad_()
    norm(z).square().sum().backward()
    torch.testing.assert_close(found, z.grad)


# ---- wrong on purpose


@pytest.mark.parametrize(
    ('make_it', 'message'),
    [
        (lambda: AttnBN(8, attention='conv_sigmoidd'), 'is unknown; did you mean conv_sigmoid'),
        (lambda: AttnGN(64, attention=4), r'attention=4 is unknown.\n  known: conv_sigmoid, mlp'),
        (lambda: AttnBN(8, 0), 'num_mixtures=0 must be a whole number .* at least 1'),
        (lambda: AttnGN(40), r'num_groups=32 does not divide the 40 channels; 1, 2, 4, 5, 8'),
        (lambda: AttnGN(8, 0), 'num_groups=0 does not divide'),
        (lambda: AttnGN(64)(torch.rand(2, 32, 4, 4)), r'reads \(B, 64, H, W\).*\(2, 32, 4, 4\)'),
        (lambda: AttnBN(8)(torch.rand(1, 8, 4, 4)), 'over the images of a batch, and there is one'),
        (lambda: AttnBN(8, attention='conv_hsigmoid')(torch.rand(1, 8, 1, 1)), 'one value a chan'),
    ],
)  # fmt: skip
def test_mistakes_are_explained(make_it, message):
    with pytest.raises(UserError, match=re.compile(message, re.S)):
        make_it()
