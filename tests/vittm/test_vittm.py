"""ViTTM: the official answers, a float64 reference, counts, keys, sizes of images, errors."""

import copy
import doctest
import importlib
import logging

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from vittm.examples import EXAMPLES, MINI

from helpers import golden
from paca_mm.analysis.flops import count
from paca_mm.checkpoint import load_whole
from paca_mm.checkpoint.convert import convert
from paca_mm.errors import UserError
from paca_mm.models import ViTTM
from paca_mm.models.vittm.archs import ARCHS
from paca_mm.models.vittm.block import ViTTMBlock
from paca_mm.models.vittm.embed import resample
from paca_mm.models.vittm.keys import LAYOUT
from paca_mm.models.vittm.linear_attention import LinearAttention, attend
from paca_mm.models.vittm.rows import ROWS

#: row: parameters of the official classifier and those of them that are never used, in millions, and its
#: GMACs at 224 x 224, as published or counted from the official definition; our parameters.
SIZES = {
    'small_28_28': (33.18, 3.92, 1.87, 29_262_800),
    'small_16_32': (32.60, 3.62, 1.87, 28_975_952),
    'base_28_28': (126.52, 14.92, 7.14, 111_607_760),
    'base_16_32': (125.36, 14.33, 7.11, 111_034_064),
}


def mini(**kwargs):
    """A small filled model in eval mode, of patches 8 and 16 at 64 x 64."""
    sizes = dict(arch=MINI, img_size=64, memory_patch=8, process_patch=16)
    return golden.fill(ViTTM(**{**sizes, **kwargs})).eval()


# ---- the official answers


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('vittm_tiny_16_32')
    state = golden.state_dict(meta['shapes'])
    image = golden.image(meta['input'][0], *meta['input'][2:])
    return state, image, {key: torch.from_numpy(value) for key, value in answers.items()}


def of_backbone(state):
    return {key: value for key, value in state.items() if not is_head(key)}


def is_head(key):
    names = ('head.', 'fc_norm.', 'process_head.', 'process_norm.', 'fc_norm_process.')
    return key.startswith(names)


def test_golden_tokens(official):
    state, image, answers = official
    model = ViTTM('tiny', memory_patch=16, process_patch=32, out_type='raw').eval()
    model.load_state_dict(of_backbone(state), strict=True)
    with torch.no_grad():
        ((memory, process),) = model(image)
    assert memory.shape[1:3] == (14, 14)
    assert process.shape[1:3] == (7, 7)
    # The official features are those behind the norm of the process tokens, which is in our head.
    norm = state['process_norm.weight'], state['process_norm.bias']
    process = F.layer_norm(process, (192,), *norm, eps=1e-6)
    for stream, tokens in (('memory', memory), ('process', process)):
        part = tokens.flatten(1, 2)[:, ::3, ::4]
        torch.testing.assert_close(part, answers[stream], rtol=1e-4, atol=2e-5)


def test_golden_segmentation_map():
    """Positions made for 224, an image of 160: both grids are resampled as it runs."""
    meta, answers = golden.load('vittm_seg_16_32')
    model = ViTTM(
        dict(embed_dims=96, num_layers=3, num_heads=3),
        memory_patch=16, process_patch=32, out_indices=(1, 2),
    ).eval()  # fmt: skip
    model.load_state_dict(of_backbone(golden.state_dict(meta['shapes'])), strict=True)
    image = golden.image(meta['input'][0], *meta['input'][2:])
    with torch.no_grad():
        out = model(image)[0]
    torch.testing.assert_close(out, torch.from_numpy(answers['out0']), rtol=1e-4, atol=2e-5)


# ---- a slow plain reading of the paper, in float64


class Reference:
    """The equations, from a block's parameters by name; tokens (B, N, C), one head after the other."""

    def __init__(self, block, num_heads):
        self.p = dict(block.named_parameters())
        self.num_heads = num_heads

    def linear(self, name, x):
        return torch.einsum('bni,oi->bno', x, self.p[f'{name}.weight']) + self.p[f'{name}.bias']

    def norm(self, name, x):
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        scaled = (x - mean) / torch.sqrt(var + 1e-6)
        return scaled * self.p[f'{name}.weight'] + self.p[f'{name}.bias']

    def heads(self, x):
        return x.chunk(self.num_heads, -1)

    def linear_attention(self, name, target, source):
        def phi(x):
            return torch.where(x > 0, x + 1, torch.exp(x))

        q, k = phi(self.linear(f'{name}q', target)), phi(self.linear(f'{name}k', source))
        v = self.linear(f'{name}v', source)
        outs = []
        for q_h, k_h, v_h in zip(self.heads(q), self.heads(k), self.heads(v), strict=True):
            weights = torch.einsum('bnd,bmd->bnm', q_h, k_h)  # every target by every source
            total = weights.sum(-1, keepdim=True) + 1e-6
            outs.append(torch.einsum('bnm,bme->bne', weights / total, v_h))
        return torch.cat(outs, -1)

    def attention(self, x):
        q, k, v = self.linear('attn.qkv', x).chunk(3, -1)
        outs = []
        for q_h, k_h, v_h in zip(self.heads(q), self.heads(k), self.heads(v), strict=True):
            scores = torch.einsum('bnd,bmd->bnm', q_h, k_h) / q_h.shape[-1] ** 0.5
            exps = torch.exp(scores - scores.amax(-1, keepdim=True))
            outs.append(torch.einsum('bnm,bme->bne', exps / exps.sum(-1, keepdim=True), v_h))
        return self.linear('attn.proj', torch.cat(outs, -1))

    def mlp(self, x):
        hidden = self.linear('mlp.fc1', x)
        return self.linear('mlp.fc2', hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)

    def block(self, memory, process):
        memory, process = self.norm('read_norm', memory), self.norm('read_norm', process)
        process = process + self.linear_attention('read.', process, memory)
        process = process + self.attention(self.norm('norm1', process))
        process = process + self.mlp(self.norm('norm2', process))
        memory, process = self.norm('write_norm', memory), self.norm('write_norm', process)
        return memory + self.linear_attention('write.', memory, process), process


def streams(channels):
    torch.manual_seed(3)
    memory = torch.randn(2, 3, 5, channels, dtype=torch.float64, requires_grad=True)
    process = torch.randn(2, 2, 2, channels, dtype=torch.float64, requires_grad=True)
    return memory, process


def assert_equal_with_gradients(ours, theirs, parameters, inputs):
    """Two answers, tuples of tokens, and the gradients of the same sum of each."""
    results = []
    for run in (ours, theirs):
        outs = [out.flatten(1, -2) for out in run()]
        total = sum((out**2).sum() + out.sum() for out in outs)
        results.append([*outs, *torch.autograd.grad(total, [*inputs, *parameters])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_reading_is_the_equation():
    layer = golden.fill(LinearAttention(16, 2)).double()
    memory, process = streams(16)
    reference = Reference(layer, 2)
    assert_equal_with_gradients(
        lambda: [layer(process, memory)],
        lambda: [reference.linear_attention('', process.flatten(1, 2), memory.flatten(1, 2))],
        list(layer.parameters()),
        (memory, process),
    )


def test_a_block_is_the_equations():
    block = golden.fill(ViTTMBlock(16, 2, 3)).double().train()
    memory, process = streams(16)
    reference = Reference(block, 2)
    assert_equal_with_gradients(
        lambda: block(memory, process),
        lambda: reference.block(memory.flatten(1, 2), process.flatten(1, 2)),
        list(block.parameters()),
        (memory, process),
    )


def test_only_reading_and_writing_are_dropped():
    """Nearly always dropped: what is left is both norms and the ViT block."""
    block = golden.fill(ViTTMBlock(16, 2, drop_path_rate=1 - 1e-9)).double().train()
    memory, process = streams(16)
    out = block(memory, process)
    reference = Reference(block, 2)
    reference.linear_attention = lambda name, target, source: torch.zeros_like(target)
    for a, b in zip(out, reference.block(memory.flatten(1, 2), process.flatten(1, 2)), strict=True):
        torch.testing.assert_close(a.flatten(1, 2), b)


def test_all_blocks_have_the_full_drop_path_rate():
    model = ViTTM(MINI, img_size=56, drop_path_rate=0.3)
    assert [block.drop_path.drop_prob for block in model.blocks] == [0.3] * 3


# ---- precision and memory


@pytest.mark.parametrize('tokens', [1024, 512 * 512])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sums_over_many_tokens_of_half_precision(tokens, dtype):
    """Activations whose sum is beyond fp16 by far: the answer is right to the input's precision."""
    torch.manual_seed(0)
    q, k = (200 * torch.randn(1, 2, n, 4).to(dtype) for n in (5, tokens))
    v = (3e4 * torch.rand(1, 2, tokens, 8)).to(dtype)
    assert (F.elu(k.float()) + 1).sum(2).max() > 65504
    out = attend(q, k, v)
    assert out.dtype == dtype
    exact = attend(q.double(), k.double(), v.double())
    assert exact.dtype == torch.float64
    error = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=error, atol=0)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(attend(q, k, v), out)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_a_memory_that_nobody_asks_for_is_nothing_and_not_nan(dtype):
    """phi of a very negative query or key is zero, and so is the sum, but for eps."""
    q = torch.full((1, 1, 3, 4), -1e4, dtype=dtype, requires_grad=True)
    k = torch.full((1, 1, 7, 4), -1e4, dtype=dtype, requires_grad=True)
    v = torch.randn(1, 1, 7, 8).to(dtype).requires_grad_()
    out = attend(q, k, v)
    out.float().sum().backward()
    for x in (out, q.grad, k.grad, v.grad):
        assert not x.any()


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has which an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return out


def test_no_tensor_grows_with_the_square_of_the_memory():
    """1024 x 1024 pixels, 256 x 256 memory tokens, a training step: the largest tensor is the image."""
    side = 1024
    with torch.device('meta'):
        model = ViTTM(MINI, side, memory_patch=4, process_patch=64, out_type='raw')
        x = torch.empty(1, 3, side, side)
    with Largest() as largest:
        total = sum(tokens.sum() for tokens in model.train()(x)[-1])
        total.backward()
    assert largest.numbers == 3 * side**2 < ((side // 4) ** 2) ** 2 / 1000


# ---- sizes


def official_parameters(row):
    """Of the official classifier: a layer under two names counts once."""
    with torch.device('meta'):
        state = ViTTM(**ROWS[row].backbone, out_type='raw').state_dict()
    channels = state['memory_embed.proj.weight'].shape[0]
    LAYOUT.to_official(state)
    if ROWS[row].backbone['memory_patch'] == 16:
        state = {k: v for k, v in state.items() if not k.startswith('patch_embed.')}
    heads = 3 * 2 * channels + 2 * 1000 * (channels + 1)
    return sum(value.numel() for value in state.values()) + heads, heads


@pytest.mark.parametrize('row', SIZES)
@pytest.mark.slow
def test_published_sizes(row):
    published, unused, gmacs, ours = SIZES[row]
    with torch.device('meta'):
        model = ViTTM(**ROWS[row].backbone, out_type='raw').eval()
    theirs, heads = official_parameters(row)
    assert round(theirs / 1e6, 2) == published
    assert sum(p.numel() for p in model.parameters()) + heads == ours
    assert round((theirs - ours) / 1e6, 2) == unused
    image = torch.empty(1, 3, 224, 224, device='meta')
    macs = count(model, lambda m: m(image)).macs
    assert macs == closed_form(**ROWS[row].backbone)
    classifiers = 2 * 1000 * model.embed_dims[-1]
    assert round((macs + classifiers) / 1e9, 2) == gmacs


def test_macs_against_a_vit():
    """ViT-B/16 with 197 tokens: 17.56 G in the same convention, 2.46 times those of ViTTM-B."""
    c, n = 768, 197
    vit = 196 * 3 * 256 * c + 12 * (12 * n * c * c + 2 * n * n * c) + 1000 * c
    assert round(vit / 1e9, 2) == 17.56
    ours = closed_form('base', 28, 28) + 2000 * c
    assert round(vit / ours, 2) == 2.46


def closed_form(arch, memory_patch, process_patch, size=224):
    """MACs of an image through a backbone, counted from the architecture alone."""
    c, layers, heads = (ARCHS[arch][key] for key in ('embed_dims', 'num_layers', 'num_heads'))
    m, n = (size // memory_patch) ** 2, (size // process_patch) ** 2
    latent = c // 4

    def linear_attention(targets, sources):
        layers = targets * c * latent + sources * c * latent + sources * c * c
        products = (targets + sources) * latent * c // heads + targets * latent
        return layers + products

    vit = 12 * n * c * c + 2 * n * n * c
    embeddings = 3 * c * (m * memory_patch**2 + n * process_patch**2)
    return embeddings + layers * (linear_attention(n, m) + vit + linear_attention(m, n))


def test_initialisation_is_timms():
    model = ViTTM('tiny')
    for tensor in (
        model.memory_embed.pos_embed,
        model.blocks[3].attn.qkv.weight,
        model.blocks[3].write.v.weight,
    ):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.blocks[3].mlp.fc1.bias.any()


def test_raw_gives_every_parameter_a_gradient():
    model = mini(out_type='raw').train()
    memory, process = model(golden.image(2, 64, 64))[-1]
    (memory.square().mean() + process.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_map_of_both_streams_is_process_then_memory():
    patches = dict(memory_patch=16, process_patch=16)
    image = golden.image(2, 64, 64)
    with torch.no_grad():
        (both,) = mini(**patches, out_type='both')(image)
        ((memory, process),) = mini(**patches, out_type='raw')(image)
    assert torch.equal(both, torch.cat([process, memory], -1).permute(0, 3, 1, 2))
    assert both.is_contiguous()


# ---- keys


@pytest.mark.parametrize('row', ROWS)
def test_every_row_goes_to_the_official_layout_and_back(row):
    with torch.device('meta'):
        state = ViTTM(**ROWS[row].backbone, out_type='raw').state_dict()
    ours = list(state)
    assert LAYOUT.rows(LAYOUT.settings(state)) == (row,)
    assert not LAYOUT.is_official(state)
    LAYOUT.to_official(state)
    assert LAYOUT.is_official(state)
    assert tuple(state['pos_embed'].shape[:2]) == (1, 197)
    LAYOUT.to_ours(state, bare=True)
    assert sorted(state) == sorted(ours)


@pytest.mark.parametrize('case', ['vittm_tiny_16_32', 'vittm_seg_16_32'])
def test_official_keys_are_those_of_the_official_code(case):
    meta, _ = golden.load(case)
    shapes = {key: tuple(shape) for key, shape in meta['shapes'].items()}
    channels, blocks = shapes['head.weight'][1], sum('.attn.qkv.weight' in key for key in shapes)
    arch = dict(embed_dims=channels, num_layers=blocks, num_heads=3)
    with torch.device('meta'):
        state = ViTTM(arch, memory_patch=16, process_patch=32, out_type='raw').state_dict()
    LAYOUT.to_official(state)
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        k: shape for k, shape in shapes.items() if not is_head(k)
    }


def test_what_the_official_model_never_uses_is_zero_and_dropped(official):
    state = of_backbone(official[0])
    unused = [k for k in state if '_head.' in k and '.proj.' in k] + ['cls_token', 'pos_embed']
    assert len(unused) == 12 * 2 * 2 + 2
    converted = convert(state)
    assert {*unused, 'patch_embed.proj.weight', 'patch_embed.proj.bias'} == {*converted.dropped}
    back = convert(converted.state, to_official=True).state
    assert back.keys() == state.keys()
    for key, value in back.items():
        if key in unused:
            assert not value.any(), key
        elif key.startswith('patch_embed.'):  # the memory's embedding, under its other name
            assert torch.equal(value, state[key.replace('patch_embed', 'memory_embedder')])
        else:
            assert torch.equal(value, state[key]), key


def test_the_embedding_of_a_vit_is_zero_where_the_memory_has_other_patches():
    state = mini().state_dict()
    LAYOUT.to_official(state)
    weight = state['patch_embed.proj.weight']
    assert tuple(weight.shape) == (24, 3, 16, 16)
    assert not weight.any()
    assert tuple(state['pos_embed'].shape) == (1, 1 + 4 * 4, 24)


@pytest.mark.parametrize('case', EXAMPLES)
def test_settings_are_seen_in_the_weights(case):
    arguments = EXAMPLES[case]
    found = LAYOUT.settings(ViTTM(**arguments).state_dict())
    assert found['arch'] == dict(embed_dims=24, num_layers=3)
    for key in ('memory_patch', 'process_patch', 'img_size'):
        assert found[key] == arguments[key]
    assert ('out_type' in found) is ('out_type' not in arguments)
    assert LAYOUT.rows(found) == ()


def test_a_file_of_other_patches_says_what_it_looks_like(tmp_path):
    torch.save(ViTTM('tiny', memory_patch=16, process_patch=32).state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    with pytest.raises(
        UserError,
        match=r"looks like arch='tiny', memory_patch=16, process_patch=32.*"
        r"model is arch='tiny', memory_patch=28, process_patch=28",
    ):
        ViTTM('tiny', init_cfg=init_cfg).init_weights()


def test_fewer_blocks_load_from_a_complete_file(official, tmp_path):
    torch.save(official[0], tmp_path / 'official.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'official.pth'))
    patches = dict(memory_patch=16, process_patch=32)
    model = ViTTM('tiny', **patches, out_indices=(1,), init_cfg=init_cfg)
    model.init_weights()
    full = ViTTM('tiny', **patches, out_indices=(1, -1))
    full.load_state_dict(of_backbone(official[0]), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(official[1])[0], full.eval()(official[1])[0])


# ---- images of other sizes


@pytest.mark.parametrize('size', [(18, 18), (5, 9), (4, 4), (8, 3)])
def test_positions_are_resampled_as_timm_does(size):
    timm = pytest.importorskip('timm.layers')
    positions = torch.randn(1, 64, 12)
    expected = timm.resample_abs_pos_embed(positions, list(size), [8, 8], num_prefix_tokens=0)
    assert torch.equal(resample(positions, (8, 8), size), expected)
    half = resample(positions.half(), (8, 8), size)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, rtol=1e-2, atol=1e-2)


def test_positions_of_the_same_grid_are_not_touched():
    positions = torch.randn(1, 64, 12)
    assert resample(positions, (8, 8), (8, 8)) is positions


@pytest.mark.parametrize('way', ['init_cfg', 'load_state_dict', 'load_whole', 'official'])
def test_positions_of_another_size_are_resampled_when_loaded(way, tmp_path, caplog):
    """A model made for 96 x 128, from weights of 64 x 64, is the model made for 64 x 64 there."""
    small = mini()
    state = small.state_dict()
    file = tmp_path / 'a.pth'
    torch.save(state, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file)) if way == 'init_cfg' else None
    model = ViTTM(MINI, (96, 128), memory_patch=8, process_patch=16, init_cfg=init_cfg).eval()
    with caplog.at_level(logging.INFO):
        if way == 'init_cfg':
            model.init_weights()
        elif way == 'load_whole':
            host = torch.nn.Sequential(model)
            load_whole(host, {f'0.{k}': v for k, v in state.items()}, file, strict=True)
        else:
            if way == 'official':
                LAYOUT.to_official(state)
            model.load_state_dict(state, strict=True)
    assert model.memory_embed.pos_embed.shape == (1, 12 * 16, 24)
    image = golden.image(1, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(image), small(image))


def test_the_log_names_the_positions_that_are_resampled(capsys):
    from mmengine.logging import MMLogger

    MMLogger.get_instance('positions')
    model = ViTTM(MINI, 96, memory_patch=8, process_patch=16)
    model.load_state_dict(mini().state_dict())
    said = ''.join(capsys.readouterr())
    assert 'memory_embed.pos_embed: positions resampled from 8x8 to 12x12' in said
    assert 'process_embed.pos_embed: positions resampled from 4x4 to 6x6' in said


def test_positions_of_a_wide_image_are_not_guessed():
    wide = ViTTM(MINI, (64, 96), memory_patch=8, process_patch=16)
    with pytest.raises(UserError, match=r'96 positions, which are no square(?s:.*)img_size'):
        mini().load_state_dict(wide.state_dict())
    again = ViTTM(MINI, (64, 96), memory_patch=8, process_patch=16)
    again.load_state_dict(wide.state_dict())
    assert torch.equal(again.memory_embed.pos_embed, wide.memory_embed.pos_embed)


@pytest.mark.parametrize('patches', [(8, 16), (16, 8), (8, 12)])
def test_padding_is_zeros_at_the_bottom_and_on_the_right(patches):
    memory_patch, process_patch = patches
    step = {(8, 12): 24}.get(patches, 16)
    arguments = dict(img_size=96, memory_patch=memory_patch, process_patch=process_patch)
    model = mini(**arguments, pad_to_patch=True)
    plain = copy.deepcopy(model)
    plain.pad_to_patch = False
    image = golden.image(2, 50, 70)
    padded = torch.zeros(2, 3, -(-50 // step) * step, -(-70 // step) * step)
    padded[:, :, :50, :70] = image
    with torch.no_grad():
        torch.testing.assert_close(model(image), plain(padded))
        (out,) = plain(padded)
    assert out.shape[2:] == (padded.shape[2] // process_patch, padded.shape[3] // process_patch)


def test_positions_follow_a_padded_training_size():
    model = ViTTM(MINI, 60, memory_patch=8, process_patch=16, pad_to_patch=True)
    assert model.memory_embed.grid == (8, 8)
    assert model.process_embed.grid == (4, 4)


# ---- wrong on purpose


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(arch='bse'), "arch='bse' is unknown; did you mean 'base'"),
        (dict(arch=dict(embed_dims=24)), "missing: \\['num_layers', 'num_heads'\\]"),
        (dict(arch=dict(MINI, depth=3)), "unknown: \\['depth'\\]"),
        (dict(arch=dict(MINI, num_layers=0)), "'num_layers'.*whole number above 0"),
        (
            dict(arch=dict(MINI, num_heads=5)),
            'embed_dims=24 must be a multiple of 4 . num_heads = 20',
        ),
        (dict(arch=dict(MINI, mlp_ratio=0)), "'mlp_ratio'.*above 0"),
        (dict(memory_patch=0), 'memory_patch=0 must be a whole number'),
        (dict(process_patch=3.5), 'process_patch=3.5 must be a whole number'),
        (dict(out_type='map'), "out_type='map' is unknown; known: 'process', 'both', 'raw'"),
        (dict(out_type='both'), 'memory_patch=8 and process_patch=16(?s:.*)to fix it'),
        (
            dict(img_size=60),
            '60x60 does not fit.*multiples of 16(?s:.*)64x64 or 48x48.*pad_to_patch',
        ),
        (dict(img_size=(64, 60)), '64x60 does not fit'),
    ],
)
def test_wrong_arguments_are_explained(wrong, message):
    with pytest.raises(UserError, match=message):
        mini(**wrong)


def test_an_image_that_does_not_fit_is_explained():
    with pytest.raises(
        UserError, match=r'50x64 does not fit(?s:.*)64x64 or 48x64, or pad_to_patch'
    ):
        mini()(golden.image(1, 50, 64))


def test_docstring_example():
    result = doctest.testmod(importlib.import_module('paca_mm.models.vittm.backbone'))
    assert result.attempted
    assert not result.failed
