"""The backbone: golden answers, the plain reference, and what mm users expect of a backbone."""

import copy
import warnings

import pytest
import torch

from helpers import golden, reference
from helpers.rows import MINI, MINIS, ROWS, mini
from paca_mm.checkpoint import rename_to_official
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT

GOLDEN = {
    'feat_tiny_conv': dict(arch='tiny', drop_path_rate=0.0),
    'feat_small_mlp_ade': dict(arch='small', clustering='mlp', num_clusters=(200, 200, 200, 0)),
    'feat_small_teacher': dict(arch='small_teacher'),
}


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize('name', GOLDEN)
def test_answers_as_the_official_code(name):
    meta, answers = golden.load(name)
    model = PaCaViT(**GOLDEN[name]).eval()
    model.load_state_dict(golden.state_dict(meta['shapes']), strict=True)
    batch, _, height, width = meta['input']
    image = golden.image(batch, height, width)
    with torch.no_grad():
        outs = model(image)
    for i, (out, exact) in enumerate(zip(outs, reference.features(model, image), strict=True)):
        assert relative(out, torch.from_numpy(answers[f'out{i}']).double()) < 5e-6
        assert relative(out, exact) < 2e-6


def test_trains_as_the_official_code():
    meta, answers = golden.load('feat_tiny_conv')
    model = PaCaViT(**GOLDEN['feat_tiny_conv'])
    model.load_state_dict(golden.state_dict(meta['shapes']), strict=True)
    batch, _, height, width = meta['input']
    loss = sum((out**2).mean() for out in model(golden.image(batch, height, width)))
    loss.backward()
    assert loss.item() == pytest.approx(float(answers['train_loss']), rel=1e-5)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    rename_to_official(grads)
    # A key's bias moves every logit alike, so its gradient is rounding noise around zero.
    noise = 1e-6 * answers['grad_norms'].max()
    for name, expected in zip(meta['grad_names'], answers['grad_norms'], strict=True):
        assert grads[name].norm().item() == pytest.approx(expected, rel=1e-4, abs=noise), name


@pytest.mark.parametrize('size', [(32, 32), (45, 83)])
@pytest.mark.parametrize('name', MINIS)
def test_equals_the_plain_reference(name, size):
    model = mini(name).double()
    image = golden.image(2, *size).double()
    outs = model(image)
    for out, exact in zip(outs, reference.features(model, image), strict=True):
        assert relative(out, exact) < 1e-10


@pytest.mark.parametrize('name', ['conv', 'mlp', 'blockwise', 'teacher'])
def test_gradients_equal_the_plain_reference(name):
    model = mini(name).double()
    image = golden.image(2, 37, 50).double()
    weights = [torch.randn_like(out) for out in model(image)]

    def loss(outs):
        return sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True))

    names, parameters = zip(*model.named_parameters(), strict=True)
    fast = torch.autograd.grad(loss(model(image)), parameters)
    live = copy.copy(model)
    state = dict(zip(names, parameters, strict=True))
    live.state_dict = lambda: {**model.state_dict(), **state}
    slow = torch.autograd.grad(loss(reference.features(live, image)), parameters)
    scale = max(g.norm() for g in slow)
    for key, a, b in zip(names, fast, slow, strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm() + 1e-13 * scale, key


@pytest.mark.parametrize('row', ROWS)
def test_published_sizes(row):
    kwargs, expected, *_ = ROWS[row]
    for _ in range(2):  # building twice is building twice
        with torch.device('meta'):
            model = PaCaViT(**kwargs)
        assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize('row', ROWS)
def test_keys_and_shapes_stay(row, request):
    """A renamed or reshaped parameter would orphan every checkpoint that was ever saved."""
    import hashlib

    with torch.device('meta'):
        model = PaCaViT(**ROWS[row][0])
    listing = '\n'.join(f'{k} {tuple(v.shape)}' for k, v in sorted(model.state_dict().items()))
    snapshot = request.path.parents[1] / 'data' / 'state_dict_keys.txt'
    kept = dict(line.split() for line in snapshot.read_text().splitlines())
    assert hashlib.sha256(listing.encode()).hexdigest() == kept[row]


def test_outputs_are_contiguous_images_of_the_right_strides():
    """mmcv's RoIAlign reads a channels-last map as if it were contiguous: scrambled, in silence."""
    model = mini()
    outs = model(golden.image(2, 33, 71))
    assert [tuple(o.shape) for o in outs] == [
        (2, 16, 9, 18), (2, 24, 5, 9), (2, 32, 3, 5), (2, 40, 2, 3)
    ]  # fmt: skip
    assert all(o.is_contiguous() for o in outs)


@pytest.mark.parametrize('name', MINIS)
def test_clusters_are_means_over_the_image(name):
    model = mini(name)
    maps = model.cluster_assignments(golden.image(2, 64, 96))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    for z, count, size in zip(maps, model.num_clusters, sizes, strict=True):
        if count == 0:
            assert z is None
        else:
            assert z.shape == (2, count, *size)
            torch.testing.assert_close(z.sum((2, 3)), torch.ones(2, count))


def test_a_stage_clusters_once_and_blockwise_again():
    image = golden.image(1, 64, 64)
    once, again = mini('conv'), mini('blockwise')
    first, last = (once.cluster_assignments(image, block)[1] for block in (0, -1))
    torch.testing.assert_close(first, last, rtol=0, atol=0)
    first, last = (again.cluster_assignments(image, block)[1] for block in (0, -1))
    assert (first - last).abs().max() > 1e-6


@pytest.mark.parametrize('frozen', range(-1, 5))
@pytest.mark.parametrize('name', ['conv', 'teacher'])
def test_frozen_stages(name, frozen):
    model = mini(name, frozen_stages=frozen, drop_path_rate=0.2).train()

    def is_frozen(key):
        part = key.removeprefix('teacher.').partition('.')[0]
        if part == 'patch_embed':
            return frozen >= 0
        stage = int(part[-1]) + part.startswith('transition')
        above = part.rstrip('0123456789') in ('lateral', 'fpn', 'to_clusters')
        return stage <= frozen and not above

    for key, parameter in model.named_parameters():
        assert parameter.requires_grad is not is_frozen(key), key
    for key, module in model.named_modules():
        if not list(module.children()) and key:
            assert module.training is not is_frozen(key), key
    outs = model(golden.image(2, 64, 64))
    if frozen < 4:
        sum((out**2).mean() for out in outs).backward()


def test_layer_depths_rise_from_the_stem_to_the_head():
    model = PaCaViT('small_teacher')
    depth = model.get_layer_depth
    assert depth('backbone.patch_embed.norm.weight', 'backbone.') == (0, 18)
    assert depth('backbone.stage1.0.norm1.weight', 'backbone.') == (1, 18)
    assert depth('backbone.stage3.6.attn.q.weight', 'backbone.') == (13, 18)
    assert depth('backbone.norm3.weight', 'backbone.') == (13, 18)
    assert depth('backbone.transition3.proj.weight', 'backbone.') == (14, 18)
    assert depth('backbone.teacher.stage2.1.dwconv.weight', 'backbone.') == (4, 18)
    assert depth('backbone.norm4.bias', 'backbone.') == (16, 18)
    assert depth('head.fc.weight', 'backbone.') == (17, 18)


def test_the_published_initialisation():
    model = PaCaViT('tiny')
    block = model.stage3[0]
    assert block.attn.q.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert model.transition2.proj.weight.std().item() == pytest.approx((2 / 2880) ** 0.5, rel=0.05)
    for module in model.modules():
        if getattr(module, 'bias', None) is not None:
            assert not module.bias.any()
        if isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all()


def test_stochastic_depth_grows_linearly():
    model = PaCaViT('small', drop_path_rate=0.18)
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in (model.stage1, model.stage2, model.stage3, model.stage4)
        for block in stage
    ]
    assert rates == pytest.approx([0.01 * i for i in range(19)])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.slow
def test_autocast_stays_finite_and_close(dtype):
    model = mini('conv')
    image = golden.image(1, 800, 1333)
    exact = model(image)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            with torch.autocast('cpu', dtype):
                outs = model(image)
    except RuntimeError as e:
        pytest.skip(f'this torch has no CPU autocast in {dtype}: {e}')
    if any('autocast' in str(w.message) for w in caught):
        pytest.skip(f'this torch has no CPU autocast in {dtype}')
    for out, expected in zip(outs, exact, strict=True):
        assert out.isfinite().all()
        assert relative(out, expected.double()) < 3e-2


def test_pooling_keeps_fp16s_smallest_weights():
    """At 1333x800 a weight is about 1 / 64000, which fp16 holds with two or three bits."""
    from paca_mm.models.paca.clustering import assign, pool

    scores = torch.randn(1, 64000, 3) * 0.5
    patches = torch.randn(1, 64000, 8)
    exact = scores.double().softmax(1).mT @ patches.double()
    pooled = pool(assign(scores.half()), patches.half())
    assert pooled.dtype == torch.float16
    assert (pooled - exact).abs().max() < 5e-4


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='smal'), "did you mean 'small'"),
        (dict(arch=dict(embed_dims=(8, 8))), "missing: \\['num_heads', 'depths', 'mlp_ratios'\\]"),
        (dict(arch=dict(MINI, depth=(1,))), "unknown: \\['depth'\\]"),
        (dict(arch=dict(MINI, depths=(1, 1))), 'one number per stage'),
        (dict(arch=dict(MINI, num_heads=(3, 3, 2, 5))), 'cannot be cut into 3 heads'),
        (dict(arch=dict(MINI, depths=(1, 1, 0, 1))), 'whole numbers above 0'),
        (dict(arch=5), 'a name or a dict'),
        (dict(clustering='kmeans'), "'conv', 'mlp', 'linear'"),
        (dict(num_clusters=(100, 100)), 'has 2 numbers, but the arch has 4 stages'),
        (dict(num_clusters=100), 'must list 4 numbers'),
        (dict(num_clusters=(100, 100, 100, -1)), 'whole numbers, 0 or more'),
        (dict(cluster_every=(1, 1)), 'cluster_every=\\(1, 1\\) has 2 numbers'),
        (dict(arch='tiny_teacher', clustering='mlp'), 'clusters by its teacher'),
        (dict(drop_path_rate=1.0), 'below 1'),
        (dict(out_indices=(4,)), 'from 0 to 3'),
        (dict(out_indices=()), 'at least one'),
        (dict(frozen_stages=5), 'from -1 \\(nothing\\) to 4'),
    ],
)
def test_wrong_arguments_are_explained(kwargs, message):
    with pytest.raises(UserError, match=message):
        PaCaViT(**kwargs)
