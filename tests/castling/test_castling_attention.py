"""Castling's attention: golden answers, the equations in float64, degenerate tokens, its branch."""

import copy
import importlib
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from castling.castling_reference import attention as reference

from helpers import golden
from paca_mm.analysis.flops import count
from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.load import load_whole
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention

HALVES = (torch.float16, torch.bfloat16)


def make(channels=24, heads=3, **kwargs):
    return golden.fill(CastlingAttention(channels, heads, **kwargs))


def tokens(batch, number, channels, dtype=torch.float32):
    values = np.random.RandomState(number).randn(batch, number, channels)
    return torch.from_numpy(values).to(dtype)


# ---- the numbers


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('eps', [0, 1e-6])
@pytest.mark.parametrize('name', ['castling_plain', 'castling_masked'])
def test_golden_answers(name, eps, training):
    """The official code's output and gradient, with the branch where it was built with it."""
    meta, answers = golden.load(name)
    module = CastlingAttention(
        meta['channels'],
        meta['heads'],
        softmax_branch=meta['mask'],
        threshold=meta['threshold'],
        eps=eps,
    ).train(training)
    module.load_state_dict(golden.state_dict(meta['shapes']), strict=True)
    x = tokens(2, meta['tokens'], meta['channels']).requires_grad_()
    out = module(x)
    out.square().mean().backward()
    torch.testing.assert_close(out.detach(), torch.from_numpy(answers['out']), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, torch.from_numpy(answers['grad']), rtol=1e-4, atol=1e-8)


def test_keys_are_the_official_ones():
    for name in ('castling_plain', 'castling_masked'):
        meta, _ = golden.load(name)
        module = CastlingAttention(meta['channels'], meta['heads'], softmax_branch=meta['mask'])
        assert {k: list(v.shape) for k, v in module.state_dict().items()} == meta['shapes']
    assert {*make(qkv_bias=True).state_dict()} == {*module.state_dict(), 'qkv.bias'}


@pytest.mark.parametrize('number', [1, 4, 9, 37])
@pytest.mark.parametrize('kernel_size', [1, 5, 9])
@pytest.mark.parametrize('branch', [None, (0.05, 1.0), (0.1, 0.3)])
def test_the_equations_forward_and_backward(number, kernel_size, branch):
    module = make(
        qkv_bias=True, kernel_size=kernel_size, eps=0, softmax_branch=branch is not None
    ).double()
    if branch:
        module.threshold, module.branch_factor = branch
    x = tokens(2, number, 24, torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = module(a), reference(module, b, *(branch or ()))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    cotangent = tokens(2, number, 24, torch.float64).roll(1, -1)
    (out * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)


def test_eps_changes_nothing_for_vectors_that_have_a_length():
    exact, default = make(eps=0), make()
    x = tokens(2, 20, 24)
    for scale in (1e-3, 1, 1e3):
        torch.testing.assert_close(default(scale * x), exact(scale * x), rtol=0, atol=0)


# ---- degenerate tokens, half precision


@pytest.mark.parametrize('branch', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, *HALVES])
def test_zero_queries_keys_and_outputs_give_no_nan(dtype, branch):
    """A token of zeros has neither; the official division gives NaN."""
    module = make(softmax_branch=branch).to(dtype)
    x = tokens(2, 12, 24, dtype)
    x[0, 3] = 0
    x[1] = 0
    x.requires_grad_()
    try:
        out = module(x)
    except RuntimeError as e:  # older torches have no float16 on a CPU
        pytest.skip(str(e))
    out.sum().backward()
    assert out.isfinite().all()
    for grad in (x.grad, *(p.grad for p in module.parameters())):
        assert grad.isfinite().all()
    assert (out[1] == module.proj.bias).all()
    module.eps = 0
    if dtype is torch.float64:
        assert module(x).isnan().any()  # what the official code does


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('branch', [True, False])
def test_half_precision_stays_close(dtype, branch):
    """Long queries too, whose squares and products float16 cannot hold."""
    module = make(64, 2, softmax_branch=branch, threshold=0.0)
    x = 30 * tokens(2, 50, 64)
    exact = module(x)
    low = 0.002 if dtype is torch.float16 else 0.02
    half = copy.deepcopy(module).to(dtype)
    try:
        rough = half(x.to(dtype)).float()
    except RuntimeError as e:
        pytest.skip(str(e))
    assert (rough - exact).norm() / exact.norm() < low
    with torch.autocast('cpu', torch.bfloat16):
        assert (module(x).float() - exact).norm() / exact.norm() < 0.02


def test_sums_of_many_tokens_do_not_overflow_in_half():
    module = CastlingAttention(8, 1, softmax_branch=False).to(torch.bfloat16)
    x = torch.full((1, 40_000, 8), 50.0, dtype=torch.bfloat16)
    assert module(x).isfinite().all()


# ---- the branch


@pytest.mark.parametrize(
    ('threshold', 'factor', 'silent'),
    [(0.02, 1.0, False), (0.999, 1.0, False), (1.0, 1.0, True), (0.02, 0.0, True)],
)
@pytest.mark.parametrize('number', [1, 30])
def test_removing_a_silent_branch_changes_nothing(threshold, factor, silent, number):
    """One token attends to itself alone: its weight is 1, the largest that there is."""
    module = make()
    module.threshold, module.branch_factor = threshold, factor
    assert module.branch_is_silent() == silent
    x = tokens(2, number, 24).requires_grad_()
    before = module(x)
    before.square().sum().backward()
    grad, x.grad = x.grad, None
    module.remove_softmax_branch()
    assert module.branch_is_silent()
    after = module(x)
    after.square().sum().backward()
    if silent:
        assert torch.equal(before, after)
        assert torch.equal(grad, x.grad)
    elif number == 1:
        assert not torch.equal(before, after)


def test_without_the_branch_the_cost_is_linear():
    channels, heads, taps = 24, 3, 9
    for number in (50, 100, 200):
        module, x = make(softmax_branch=False), tokens(1, number, channels)
        layers = 4 * number * channels**2 + taps * number * channels
        linear = 2 * number * channels * channels // heads
        assert count(module, lambda m, x=x: m(x)).macs == layers + linear
        branch = 2 * number**2 * channels
        assert count(make(), lambda m, x=x: m(x)).macs == layers + linear + branch


def test_a_state_dict_knows_the_branch(tmp_path):
    source = make()
    source.threshold, source.branch_factor = 0.3, 0.5
    target = CastlingAttention(24, 3)
    target.load_state_dict(source.state_dict())
    x = tokens(2, 10, 24)
    assert (target.threshold, target.branch_factor) == (0.3, 0.5)
    assert torch.equal(source(x), target(x))

    source.remove_softmax_branch()
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    target = CastlingAttention(24, 3)
    load_whole(target, read_checkpoint(tmp_path / 'a.pth'), 'a.pth', strict=True)
    assert not target.softmax_branch
    assert target.built_with_branch
    assert torch.equal(source(x), target(x))

    from mmengine.runner.checkpoint import get_state_dict, load_state_dict

    target = CastlingAttention(24, 3)  # mmengine collects and loads by functions of its own
    load_state_dict(target, get_state_dict(source))
    assert not target.softmax_branch


def test_weights_without_metadata_leave_the_branch_as_it_was_built():
    for built in (True, False):
        module = CastlingAttention(24, 3, softmax_branch=built)
        module.load_state_dict(dict(make().state_dict()))
        assert (module.softmax_branch, module.threshold, module.branch_factor) == (built, 0.02, 1)


def test_copies_and_pickles_keep_the_branch():
    module = make()
    module.threshold = 0.3
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (copy.deepcopy(module), torch.load(stream, weights_only=False)):
        assert other.threshold == 0.3
        metadata = other.state_dict()._metadata['']['softmax_branch']
        assert metadata == dict(runs=True, threshold=0.3, factor=1.0)


# ---- what else a layer must bear


@pytest.mark.slow
@pytest.mark.parametrize('branch', [True, False])
def test_it_compiles_as_one_graph(branch):
    module, x = make(softmax_branch=branch), tokens(2, 17, 24)
    compiled = torch.compile(module, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))
    torch._dynamo.reset()


def test_layers_that_are_watched_or_replaced_are_called():
    module, seen = make(), []
    for name in ('qkv', 'dconv', 'proj'):
        layer = module.get_submodule(name)
        layer.register_forward_hook(lambda m, i, o, name=name: seen.append(name))
    module(tokens(1, 5, 24))
    assert seen == ['qkv', 'dconv', 'proj']


def test_it_is_a_rule_of_signs():
    """What the kernel means: a query opposite to a key gets less of its value than one along it."""
    module = CastlingAttention(4, 1, softmax_branch=False, eps=0).double()
    with torch.no_grad():
        module.qkv.weight.copy_(torch.eye(4).repeat(3, 1))
        module.dconv.weight.zero_()
        module.proj.weight.copy_(torch.eye(4))
        module.proj.bias.zero_()
    x = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0]]], dtype=torch.float64)
    # y = v / 2 + (q . q) v / pi: its own direction, for tokens that are orthogonal to each other.
    torch.testing.assert_close(module(x), F.normalize(x, dim=-1))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(embed_dims=10, num_heads=3), r'embed_dims=10 must be a multiple of num_heads=3'),
        (dict(embed_dims=8, num_heads=2, kernel_size=4), r'kernel_size=4 must be an odd number'),
        (dict(embed_dims=8, num_heads=2, threshold=2), r'threshold=2 must be from 0 to 1'),
        (dict(embed_dims=8, num_heads=2, eps=-1), r'eps=-1 must not be below 0'),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        CastlingAttention(**arguments)


def test_wrong_tokens_are_explained():
    with pytest.raises(UserError, match=r'reads tokens \(B, N, 24\).*given \(2, 5, 23\)'):
        make()(torch.rand(2, 5, 23))


@pytest.mark.slow
@pytest.mark.parametrize('host', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_it_builds_in_the_scope_of_every_host(host):
    pytest.importorskip(host)
    from mmengine.registry import DefaultScope

    models = importlib.import_module(f'{host}.registry').MODELS
    with DefaultScope.overwrite_default_scope(host):
        built = models.build(dict(type='paca_mm.CastlingAttention', embed_dims=8, num_heads=2))
    assert type(built) is CastlingAttention
