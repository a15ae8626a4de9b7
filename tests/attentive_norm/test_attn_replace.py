"""ReplaceNorms: any module of a host, its class and keys, with some of its norms exchanged."""

import copy
import re

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS, DefaultScope

from helpers import golden
from paca_mm.errors import UserError
from paca_mm.models import AttnBN, AttnGN
from paca_mm.models.attentive_norm.replace import exchange_norms

BN2 = r'layer\d\.\d+\.bn2'
AN = dict(type='paca_mm.AttnBN', num_mixtures=2)


def build(scope, module, norms, **kwargs):
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        MODELS.build(dict(type=f'{scope}.ResNet', depth=18))  # the host registers its models
        cfg = dict(type='paca_mm.ReplaceNorms', module=module, norms=norms, **kwargs)
        before = copy.deepcopy(cfg)
        model = MODELS.build(cfg)
        assert cfg == before
    return model


@pytest.mark.slow
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_it_is_the_hosts_module_in_every_host(scope):
    module = dict(type='ResNet', depth=50, frozen_stages=1, norm_eval=True)
    model = build(scope, module, {BN2: AN})
    assert type(model).__module__.startswith(f'{scope}.')
    with DefaultScope.overwrite_default_scope(scope):
        plain = MODELS.build(module)
    names = {name for name, m in plain.named_modules() if re.fullmatch(BN2, name)}
    assert {name for name, m in model.named_modules() if isinstance(m, AttnBN)} == names
    keys = {k for k in plain.state_dict() if not re.match(BN2 + r'\.(weight|bias)$', k)}
    extra = {k for k in model.state_dict() if re.match(BN2 + r'\.(weight_|bias_|attention)', k)}
    assert set(model.state_dict()) == keys | extra

    model.train()
    for name in names:
        norm = model.get_submodule(name)
        frozen = name.startswith('layer1.')
        assert not norm.training  # norm_eval
        assert all(p.requires_grad != frozen for p in norm.parameters())
        assert norm is model.get_submodule(name.rpartition('.')[0]).norm2
    mixture = model.layer2[0].bn2.weight_.clone()
    model.init_weights()
    assert torch.equal(model.layer2[0].bn2.weight_, mixture)
    maps = model(golden.image(1, 64, 64))
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('scope', 'module', 'pattern', 'count'),
    [
        ('mmpretrain', dict(type='ResNet', depth=18), r'layer\d\.\d\.bn1', 8),
        ('mmpretrain', dict(type='ResNeXt', depth=50), BN2, 16),
        ('mmpretrain', dict(type='MobileNetV2'), r'layer[2-7]\.\d\.conv\.1\.bn', 16),
        ('mmpretrain', dict(type='DenseNet', arch='121'), r'stages\.\d\.block\.\d+\.norm2', 58),
        ('mmseg', dict(type='ResNetV1c', depth=50), BN2, 16),
        ('mmdet', dict(type='FPN', in_channels=[8, 8], out_channels=8, num_outs=2,
                       norm_cfg=dict(type='BN')), r'.*\.bn', 4),
        ('mmdet', dict(type='Shared4Conv1FCBBoxHead', in_channels=8, conv_out_channels=8,
                       fc_out_channels=8, num_classes=3, norm_cfg=dict(type='BN')),
         r'shared_convs\.\d\.bn', 4),
        ('mmdet', dict(type='FCNMaskHead', in_channels=8, conv_out_channels=8, num_classes=3,
                       norm_cfg=dict(type='BN')), r'convs\.\d\.bn', 4),
    ],
)  # fmt: skip
def test_backbones_necks_and_heads(scope, module, pattern, count):
    model = build(scope, module, {pattern: AN})
    assert type(model).__name__ == module['type']
    assert sum(isinstance(m, AttnBN) for m in model.modules()) == count


def test_groups_and_what_the_host_adds():
    class Head(nn.Module):
        def __init__(self, train_cfg=None):
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.BatchNorm2d(8))
            self.train_cfg = train_cfg

    norms = {r'convs\.1': dict(type='paca_mm.AttnGN', num_groups=2, num_mixtures=3)}
    cfg = dict(type='paca_mm.ReplaceNorms', module=dict(type=Head), norms=norms)
    head = MODELS.build(cfg, default_args=dict(train_cfg=dict(a=1)))
    assert head.train_cfg == dict(a=1)
    assert type(head.convs[1]) is AttnGN
    assert (head.convs[1].num_groups, head.convs[1].num_channels) == (2, 8)
    assert type(head.convs[2]) is nn.BatchNorm2d


def test_frozen_stays_frozen_and_dtype_and_mode_stay():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)).double()
    model[0].eval().requires_grad_(False)
    exchange_norms(model, {r'\d': AN})
    assert not model[0].training
    assert model[1].training
    assert not any(p.requires_grad for p in model[0].parameters())
    assert all(p.requires_grad for p in model[1].parameters())
    assert all(p.dtype == torch.float64 for p in model.parameters())
    exchange_norms(model, {r'\d': dict(type='BN')})  # and back; an attention's norm is no norm here
    assert [type(m) for m in model] == [nn.BatchNorm2d] * 2


@pytest.mark.parametrize(
    ('norms', 'message'),
    [
        ({r'layer\d\.bn2': AN}, r"'layer\\\\d\\\\.bn2' matches none of the 2 norms of Sequential"),
        ({r'1\.bm2': AN}, r'near it: 1\.bn2, 0\n  its norms: 0, 1\.bn2'),
        ({'(': AN}, 'is no regular expression'),
        ({'0': AN, r'\d': AN}, r"both '0' and .* match the norm 0; one of them must leave it out"),
        ({'0': dict(type='paca_mm.AttnGN')}, 'num_groups=32 does not divide the 4 channels'),
    ],
)
def test_mistakes_are_explained(norms, message):
    inner = nn.Sequential()
    inner.add_module('bn2', nn.BatchNorm2d(4))
    with pytest.raises(UserError, match=message):
        exchange_norms(nn.Sequential(nn.BatchNorm2d(4), inner), norms)


def test_a_module_that_is_no_config():
    with pytest.raises(UserError, match=r"module='ResNet' must be the config of a module"):
        MODELS.build(dict(type='paca_mm.ReplaceNorms', module='ResNet', norms={}))
