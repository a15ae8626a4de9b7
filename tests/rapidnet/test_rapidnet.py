"""RapidNet's own facts: the official answers, a float64 reference, counts, keys, folding, errors."""

import copy
import doctest
import importlib
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from rapidnet.examples import EXAMPLES, MINI

from helpers import golden
from paca_mm.analysis.flops import count
from paca_mm.checkpoint.convert import convert, convert_file
from paca_mm.errors import UserError
from paca_mm.models import RapidNet
from paca_mm.models.rapidnet.archs import ARCHS, drop_path_rates
from paca_mm.models.rapidnet.inverted import InvertedResidual
from paca_mm.models.rapidnet.keys import LAYOUT
from paca_mm.models.rapidnet.mldc import MLDCBlock

#: row: parameters of the backbone, MACs of it at 224 x 224.
SIZES = {
    'ti': (5_485_616, 0.617),
    's': (8_070_864, 0.897),
    'm': (16_113_120, 1.597),
    'b': (28_696_704, 3.354),
}


def mini(**kwargs):
    """A small filled model in eval mode."""
    return golden.fill(RapidNet(**{'arch': MINI, 'drop_path_rate': 0.0, **kwargs})).eval()


# ---- the official answers


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('rapidnet_ti')
    maps = [torch.from_numpy(answers[f'out{i}']) for i in range(4)]
    image = golden.image(meta['input'][0], *meta['input'][2:])
    return golden.state_dict(meta['shapes']), image, maps


@pytest.fixture(scope='module')
def tiny(official):
    """RapidNet-Ti with the official code's weights."""
    model = RapidNet('ti')
    state = {k: v for k, v in official[0].items() if k.startswith(('stem.', 'backbone.'))}
    model.load_state_dict(state, strict=True)
    return model.eval()


def assert_maps(outs, maps):
    for out, expected in zip(outs, maps, strict=True):
        torch.testing.assert_close(out[:, ::4], expected, rtol=1e-4, atol=2e-5)


def test_golden_maps(tiny, official):
    with torch.no_grad():
        assert_maps(tiny(official[1]), official[2])


def test_golden_maps_when_folded(tiny, official):
    folded = tiny.switch_to_deploy(copy=True)
    assert not tiny.deploy
    with torch.no_grad():
        assert_maps(folded(official[1]), official[2])
        for a, b in zip(folded(official[1]), tiny(official[1]), strict=True):
            assert (a - b).abs().max() < 1e-5 * b.abs().max()


# ---- a slow plain reading of the paper, in float64


class Reference:
    """The equations, from a block's parameters by name; BatchNorm on the batch or on its statistics.

    Convolutions are sums of shifted images, so that a kernel, its dilation and its padding are spelt
    out.
    """

    def __init__(self, block, training):
        self.p = dict(block.named_parameters()) | dict(block.named_buffers())
        self.training = training

    def conv(self, name, x, dilation=1, depthwise=False):
        weight, bias = self.p[f'{name}.weight'], self.p.get(f'{name}.bias')
        k = weight.shape[-1]
        pad = dilation * (k // 2)
        height, width = x.shape[2:]
        padded = F.pad(x, [pad] * 4)
        out = 0
        for i in range(k):
            for j in range(k):
                top, left = i * dilation, j * dilation
                part = padded[:, :, top : top + height, left : left + width]
                if depthwise:
                    out = out + weight[:, 0, i, j].view(1, -1, 1, 1) * part
                else:
                    out = out + torch.einsum('oc,bchw->bohw', weight[:, :, i, j], part)
        return out if bias is None else out + bias.view(1, -1, 1, 1)

    def norm(self, name, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = self.p[f'{name}.running_mean'], self.p[f'{name}.running_var']
        scale = self.p[f'{name}.weight'] / torch.sqrt(var + 1e-5)
        view = (1, -1, 1, 1)
        return (x - mean.view(view)) * scale.view(view) + self.p[f'{name}.bias'].view(view)

    def layer(self, name, x, act=True, **kwargs):
        x = self.norm(f'{name}.norm', self.conv(f'{name}.conv', x, **kwargs))
        return x * (1 + torch.erf(x / 2**0.5)) / 2 if act else x

    def mldc_block(self, x):
        y = x + self.conv('mixer.cpe.dwconv', x, depthwise=True)
        y = self.layer('mixer.fc1', y, act=False)
        y = self.layer('mixer.dilated2', y, dilation=2) + self.layer(
            'mixer.dilated3', y, dilation=3
        )
        x = x + self.p['layer_scale_1'] * self.layer('mixer.fc2', y, act=False)
        y = self.layer('ffn.dwconv', x, act=False, depthwise=True)
        y = self.layer('ffn.fc2', self.layer('ffn.fc1', y), act=False)
        return x + self.p['layer_scale_2'] * y

    def inverted_residual(self, x):
        y = self.layer('dwconv', self.layer('expand', x), depthwise=True)
        return x + self.p['layer_scale_1'] * self.layer('project', y, act=False)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize(
    ('block', 'reference'),
    [(MLDCBlock(6), Reference.mldc_block), (InvertedResidual(6), Reference.inverted_residual)],
    ids=['mldc', 'inverted'],
)
def test_a_block_is_the_equations(block, reference, training):
    block = golden.fill(copy.deepcopy(block)).double().train(training)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (block, lambda x: reference(Reference(block, training), x)):
        block.zero_grad()
        out = run(x)
        parameters = list(block.parameters())
        results.append([out, *torch.autograd.grad((out**2).sum() + out.sum(), [x, *parameters])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# ---- sizes


@pytest.mark.parametrize('row', SIZES)
def test_published_sizes(row):
    with torch.device('meta'):
        model = RapidNet(row).eval()
    parameters, gmacs = SIZES[row]
    assert sum(p.numel() for p in model.parameters()) == parameters
    image = torch.empty(1, 3, 224, 224, device='meta')
    macs = count(model, lambda m: m(image)).macs
    assert macs == closed_form(ARCHS[row])
    # What is published is the classifier's: two small layers more.
    channels = ARCHS[row]['embed_dims'][-1]
    hidden = 768 if row == 'b' else 512
    assert round((macs + channels * hidden + 2 * hidden * 1000) / 1e9, 3) == gmacs


def closed_form(arch, size=224):
    """MACs of an image through a backbone, counted from the architecture alone."""
    dims = arch['embed_dims']
    n = (size // 2) ** 2
    total = n * 27 * dims[0] // 2 + n // 4 * 9 * dims[0] // 2 * dims[0]
    n //= 4
    for i, c in enumerate(dims):
        if i:
            n //= 4
            total += n * 9 * dims[i - 1] * c
        total += arch['inverted_blocks'][i] * n * (8 * c * c + 9 * 4 * c)
        mixer = 49 * c + 2 * c * c + 2 * 9 * c * c
        total += arch['mldc_blocks'][i] * n * (mixer + 49 * c + 8 * c * c)
    return total


def test_the_drop_path_rule_is_the_published_one():
    rates = drop_path_rates(0.1, ARCHS['ti']['inverted_blocks'], ARCHS['ti']['mldc_blocks'])
    step = 0.1 / 15  # 16 blocks
    assert rates[0] == rates[1] == [0.0, 0.0]
    assert rates[2] == pytest.approx([0.0] * 6 + [0.0, step])
    assert rates[3] == pytest.approx([2 * step] * 2 + [2 * step, 3 * step])
    model = RapidNet('ti', drop_path_rate=0.1)
    found = [
        getattr(b.drop_path, 'drop_prob', 0.0) for b in model.stages[3] if hasattr(b, 'drop_path')
    ]
    assert found == pytest.approx(rates[3])


def test_initialisation_is_the_published_one():
    model = RapidNet('m')
    conv = model.stages[2][-1].mixer.dilated2.conv
    fan_in = 9 * 160
    assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    assert torch.all(model.stages[0][0].layer_scale_1 == 1e-5)


def test_recomputing_counts_a_batch_once():
    """Running statistics too are what they would be without recomputing."""
    states = []
    for with_cp in (False, True):
        model = mini(with_cp=with_cp).train()
        sum(out.square().mean() for out in model(golden.image(2, 48, 64))).backward()
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)


# ---- keys


@pytest.mark.parametrize('row', ARCHS)
def test_every_row_goes_to_the_official_layout_and_back(row):
    with torch.device('meta'):
        state = RapidNet(row).state_dict()
    ours = list(state)
    assert LAYOUT.rows(LAYOUT.settings(state)) == (row,)
    LAYOUT.to_official(state)
    assert all(re.match(r'stem\.stem\.\d\.|backbone\.\d\.\d+\.', key) for key in state)
    assert LAYOUT.is_official(state)
    assert len(state) == len(ours)
    LAYOUT.to_ours(state, bare=True)
    assert list(state) == ours
    assert not LAYOUT.is_official(state)


def test_official_keys_are_those_of_the_official_code(official):
    with torch.device('meta'):
        state = RapidNet('ti').state_dict()
    LAYOUT.to_official(state)
    meta, _ = golden.load('rapidnet_ti')
    shapes = {
        key: tuple(shape)
        for key, shape in meta['shapes'].items()
        if key.startswith(('stem.', 'backbone.')) and not key.endswith('num_batches_tracked')
    }
    found = {k: tuple(v.shape) for k, v in state.items() if not k.endswith('num_batches_tracked')}
    assert found == shapes


@pytest.mark.parametrize('case', EXAMPLES)
def test_settings_are_seen_in_the_weights(case):
    model = RapidNet(**EXAMPLES[case])
    found = LAYOUT.settings(model.state_dict())
    assert found == {'arch': {k: tuple(v) for k, v in EXAMPLES[case]['arch'].items()}}
    assert LAYOUT.rows(found) == ()
    folded = LAYOUT.settings(model.switch_to_deploy().state_dict())
    assert folded.get('deploy', False)


def averaged(state):
    """An official file: the weights and, beside them, those that the authors evaluate."""
    raw = {key: torch.zeros_like(value) for key, value in state.items()}
    return {'state_dict': raw, 'state_dict_ema': state, 'epoch': 3}


def test_init_cfg_takes_the_averaged_weights(official, tmp_path):
    torch.save(averaged(official[0]), tmp_path / 'official.pth')
    model = RapidNet('ti', init_cfg=dict(type='Pretrained', checkpoint=tmp_path / 'official.pth'))
    model.init_weights()
    with torch.no_grad():
        assert_maps(model.eval()(official[1]), official[2])


def test_converting_takes_the_averaged_weights(official, tmp_path):
    torch.save(averaged(official[0]), tmp_path / 'official.pth')
    report = convert_file(tmp_path / 'official.pth', tmp_path / 'ours.pth', row='ti', task='cls')
    assert report.wrapper == 'state_dict_ema'
    assert report.rows == ('ti',)
    assert report.left == ('state_dict', 'epoch')
    assert not report.dropped
    assert not report.added
    assert 'backbone.stages.*.*.mixer.dilated2' in str(report)
    converted = torch.load(tmp_path / 'ours.pth')['state_dict']
    assert torch.equal(converted['head.fc_dist.bias'], official[0]['dist_head.bias'])
    back = convert(converted, to_official=True)
    assert back.state.keys() == official[0].keys()
    for key, value in back.state.items():
        assert torch.equal(value, official[0][key]), key


def test_a_file_of_another_size_says_what_it_looks_like(official, tmp_path):
    torch.save(official[0], tmp_path / 'official.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'official.pth'))
    with pytest.raises(
        UserError, match=r"looks like arch='ti' .*published row ti.*model is arch='s'"
    ):
        RapidNet('s', init_cfg=init_cfg).init_weights()


def test_fewer_stages_load_from_a_complete_file(official, tmp_path, tiny):
    torch.save(official[0], tmp_path / 'official.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'official.pth'))
    model = RapidNet('ti', out_indices=(1,), init_cfg=init_cfg)
    model.init_weights()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(official[1])[0], tiny(official[1])[1])


# ---- folding


@pytest.mark.parametrize('case', EXAMPLES)
def test_a_folded_model_gives_the_same_maps(case):
    model = golden.fill(RapidNet(**EXAMPLES[case])).eval()
    image = golden.image(2, 64, 64)
    with torch.no_grad():
        before = model(image)
        folded = model.switch_to_deploy(copy=True)
        for a, b in zip(folded(image), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        for a, b in zip(model(image), before, strict=True):
            assert torch.equal(a, b)  # the original is as it was
    norms = sum(isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm)) for m in folded.modules())
    assert norms == 0
    if case != 'groups':  # GroupNorm depends on the image
        assert len(list(folded.modules())) < len(list(model.modules()))
    again = RapidNet(**EXAMPLES[case], deploy=True)
    again.load_state_dict(folded.state_dict(), strict=True)
    with torch.no_grad():
        for a, b in zip(again(image), folded(image), strict=True):
            assert torch.equal(a, b)
    assert model.switch_to_deploy() is model
    assert model.switch_to_deploy() is model  # does nothing


@pytest.mark.parametrize('norm_cfg', [dict(type='BN', affine=False), dict(type='BN', eps=0.01)])
def test_any_batch_norm_is_folded(norm_cfg):
    model = mini(norm_cfg=norm_cfg)
    image = golden.image(1, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(image), model.switch_to_deploy()(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_weights_that_train_are_no_folded_ones():
    """GroupNorm stays, so that only the name of the positional encoding tells the forms apart."""
    arguments = EXAMPLES['groups']
    with pytest.raises(RuntimeError, match='reparam_conv'):
        RapidNet(**arguments, deploy=True).load_state_dict(RapidNet(**arguments).state_dict())


def test_a_folded_model_does_not_train():
    model = RapidNet(arch=MINI, deploy=True)
    assert not model.training
    with pytest.raises(UserError, match=r'in deploy mode(?s:.*)to fix it: deploy=False'):
        nn.Sequential(model).train()
    assert not nn.Sequential(model).eval().training


# ---- wrong on purpose


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('tii', "arch='tii' is unknown; did you mean 'ti'"),
        (dict(MINI, mldc_blocks=(0, 0, 1)), 'their lengths are'),
        (dict(MINI, mldc_blocks=(0, 0, 1, -1)), "'mldc_blocks'.*whole numbers from 0"),
        (dict(MINI, embed_dims=(16, 24, 32, 0)), "'embed_dims'.*whole numbers above 0"),
        (dict(MINI, mldc_blocks=(0, 0, 1, 0)), 'leave a stage without blocks'),
        (dict(MINI, embed_dims=(15, 24, 32, 40)), 'must be even'),
        (dict(embed_dims=(8,), inverted_blocks=(1,)), "missing: \\['mldc_blocks'\\]"),
    ],
)
def test_wrong_sizes_are_explained(arch, message):
    with pytest.raises(UserError, match=f'(?s){message}'):
        RapidNet(arch)


def test_docstring_example():
    result = doctest.testmod(importlib.import_module('paca_mm.models.rapidnet.backbone'))
    assert result.attempted
    assert not result.failed
