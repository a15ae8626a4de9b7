"""Official checkpoints: classifiers of torchvision's names, detectors of mmdetection 1."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from helpers import golden
from paca_mm.checkpoint import load_whole
from paca_mm.checkpoint.convert import convert
from paca_mm.errors import UserError
from paca_mm.models.attentive_norm.keys import LAYOUT

pytest.importorskip('mmpretrain')

AN = dict(type='paca_mm.AttnBN', num_mixtures=2)


def classifier(row):
    """A classifier of three classes, filled; its published backbone."""
    from paca_mm.engine.config import load_config

    cfg = load_config(f'configs/cls/attentive_norm/{row}_in1k.py')
    cfg.model.head.num_classes = 3
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return golden.fill(MODELS.build(cfg.model)).eval()


def official_name(key):
    """An official classifier's key for ours, for a ResNet."""
    return key.removeprefix('backbone.').replace('head.fc.', 'fc.')


@pytest.mark.slow
def test_an_official_resnet_fills_the_classifier():
    model = classifier('resnet50_an')
    ours = model.state_dict()
    official = {official_name(key): value for key, value in ours.items()}
    assert 'layer1.0.bn2.weight_' in official
    assert 'layer4.2.bn2.attention_weights.attention.1.running_var' in official
    other = classifier('resnet50_an')
    for p in other.parameters():
        p.data.zero_()
    report = load_whole(other, dict(state_dict=dict(official)), 'official.pth', strict=True)
    assert not report.unexpected
    for key, value in other.state_dict().items():
        assert torch.equal(value, ours[key]), key

    found = convert(ours, to_official=True, row='resnet50_an')
    assert found.state.keys() == official.keys()
    with pytest.raises(UserError, match='it loads as it is'):
        convert(official)
    broken = dict(official)
    del broken['layer3.1.bn2.bias_']
    with pytest.raises(UserError, match=r'layer3\.1\.bn2\.bias_'):
        load_whole(other, dict(state_dict=broken), 'official.pth', strict=True)


@pytest.mark.slow
def test_an_official_mobilenet_v2_fills_the_classifier():
    model = classifier('mobilenet_v2_an')
    ours = model.state_dict()
    found = convert(ours, to_official=True, row='mobilenet_v2_an')
    official = found.state
    # Some of the names that torchvision's MobileNetV2 has, of every kind of layer.
    assert {
        'features.0.0.weight', 'features.0.1.running_mean', 'features.1.conv.0.0.weight',
        'features.1.conv.0.1.weight_', 'features.1.conv.1.weight', 'features.1.conv.2.bias',
        'features.2.conv.0.0.weight', 'features.2.conv.1.1.attention_weights.attention.0.weight',
        'features.17.conv.1.1.attention_weights.attention.1.running_var',
        'features.17.conv.2.weight', 'features.17.conv.3.weight', 'features.18.0.weight',
        'features.18.1.bias', 'classifier.1.weight', 'classifier.1.bias',
    } <= official.keys()  # fmt: skip
    assert len(official) == len(ours)
    assert not any('layer' in key or 'backbone' in key for key in official)
    back = convert(official)
    assert back.task == 'cls'
    assert back.rows == ('mobilenet_v2_an',)
    assert list(back.state) == list(ours)
    other = classifier('mobilenet_v2_an')
    for p in other.parameters():
        p.data.zero_()
    load_whole(other, dict(state_dict=dict(official)), 'official.pth', strict=True)
    for key, value in other.state_dict().items():
        assert torch.equal(value, ours[key]), key


@pytest.mark.slow
def test_torchvision_itself_has_these_names():
    models = pytest.importorskip('torchvision.models')
    keys = {k for k in models.mobilenet_v2().state_dict() if not k.startswith('features.18')}
    found = convert(classifier('mobilenet_v2_an').state_dict(), to_official=True).state
    plain = {k.replace('weight_', 'weight').replace('bias_', 'bias') for k in found}
    assert keys <= plain


def detector(num_classes=3):
    """A small Mask R-CNN with Attentive Normalization in the backbone and in the box head."""
    pytest.importorskip('mmdet')
    from paca_mm.engine.config import load_config

    cfg = load_config('configs/det/attentive_norm/mask_rcnn_r50_an_head.py').model
    cfg.backbone.module.update(base_channels=8, init_cfg=None)
    for norm in cfg.backbone.norms.values():
        norm.num_mixtures = 2
    cfg.neck.update(in_channels=[32, 64, 128, 256])
    cfg.roi_head.bbox_head.module.update(num_classes=num_classes, fc_out_channels=8)
    cfg.roi_head.mask_head.num_classes = num_classes
    with DefaultScope.overwrite_default_scope('mmdet'):
        return golden.fill(MODELS.build(cfg)).eval()


@pytest.mark.slow
def test_a_detector_of_mmdetection_1_fills_todays():
    model = detector()
    ours = {k: v.clone() for k, v in model.state_dict().items()}
    official = {}
    for key, value in ours.items():
        name = key.removeprefix('roi_head.')
        if 'fc_cls' in name:
            value = torch.cat([value[-1:], value[:-1]])  # background first
        elif 'fc_reg' in name:
            value = torch.cat([torch.full_like(value[:4], 9.0), value])
        elif 'conv_logits' in name:
            value = torch.cat([torch.full_like(value[:1], 9.0), value])
        if 'shared_convs' in name:
            name = name.replace('.gn.', '.an.')
        official[name] = value
    assert 'bbox_head.shared_convs.3.an.attention_weights.attention.0.bias' in official
    assert official['bbox_head.fc_reg.weight'].shape[0] == 16
    other = detector()
    for p in other.parameters():
        p.data.zero_()
    report = load_whole(other, dict(state_dict=copy.copy(official)), 'old.pth', strict=True)
    assert not report.unexpected
    for key, value in other.state_dict().items():
        assert torch.equal(value, ours[key]), key
    # One of today's is left as it is.
    state = dict(ours)
    LAYOUT.to_ours(state)
    assert state.keys() == ours.keys()
    assert all(state[key] is value for key, value in ours.items())


def test_other_sizes_are_described_and_are_no_row():
    state = {
        'conv1.weight': torch.empty(1),
        'layer1.0.bn2.weight_': torch.empty(3, 8),
        'layer1.0.bn2.attention_weights.attention.0.weight': torch.empty(3, 8, 1, 1),
        'layer2.0.conv1.weight': torch.empty(1),
        'layer2.1.conv1.weight': torch.empty(1),
    }
    assert LAYOUT.find(f'backbone.{key}' for key in state) == 'backbone.'
    assert LAYOUT.describe_state(state) == (
        'ResNet with Attentive Normalization, depths=(1, 2), num_mixtures=(3, 0)'
    )
    assert LAYOUT.find(['layer1.0.bn2.weight']) is None
