"""Weight decay and learning rates by parameter, under every host."""

import pytest
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import tiny
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.families import families
from paca_mm.paths import assets_root

FAMILIES = {name: family for name, family in families().items() if family.backbone and family.toy}
every_family = pytest.mark.parametrize('name', FAMILIES)
OURS = 'paca_mm.LayerDecayOptimWrapperConstructor'
LR, DECAY = 1e-2, 0.05


def optimizer(model, constructor=OURS, **paramwise):
    cfg = dict(
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        constructor=constructor,
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg).optimizer


def settings(model, **paramwise):
    """The learning rate and the weight decay of every parameter, as multiples of the optimizer's."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer(model, **paramwise).param_groups:
        for parameter in group['params']:
            assert names[id(parameter)] not in found  # each is in one group
            found[names[id(parameter)]] = (
                round(group['lr'] / LR, 9),
                round(group['weight_decay'] / DECAY, 9),
            )
    return found


def host(task, name, **backbone):
    """A model of a host around the toy of a family, with a head whose parts have all kinds."""
    family = FAMILIES[name]
    settings = dict(
        type=f'paca_mm.{family.backbone}', **{**family.toy, **family.as_maps, **backbone}
    )
    if task == 'det':
        pytest.importorskip('mmdet')
        head = dict(type='RetinaHead', num_classes=2, in_channels=24, feat_channels=8, stacked_convs=1,
                    norm_cfg=dict(type='GN', num_groups=2))  # fmt: skip
        model = dict(type='SingleStageDetector', bbox_head=head)
    elif task == 'seg':
        pytest.importorskip('mmseg')
        model = dict(type='EncoderDecoder', test_cfg=dict(mode='whole'),
                     decode_head=dict(type='FCNHead', in_channels=24, channels=8, num_classes=2,
                                      norm_cfg=dict(type='BN')))  # fmt: skip
    else:
        pytest.importorskip('mmpretrain')
        model = dict(type='ImageClassifier',
                     head=dict(type='LinearClsHead', num_classes=2, in_channels=24))  # fmt: skip
    init_default_scope({'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}[task])
    return MODELS.build({**model, 'backbone': settings})


@every_family
@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_every_parameter_learns_by_its_depth_and_decays_by_its_kind(task, name):
    model = host(task, name, frozen_stages=0)
    backbone = model.backbone
    found = settings(model, layer_decay_rate=0.5)
    assert found.keys() == {key for key, p in model.named_parameters() if p.requires_grad}
    assert len(found) < len(list(model.parameters()))  # the stem is frozen
    still = {f'backbone.{key}' for key in backbone.no_weight_decay()}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            key = f'{prefix}.{own}'.lstrip('.')
            if not parameter.requires_grad:
                continue
            layer, layers = backbone.get_layer_depth(key, 'backbone.')
            is_norm = isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
            decays = not (is_norm or own == 'bias' or parameter.ndim == 1 or key in still)
            expected = (round(0.5 ** (layers - 1 - layer), 9), float(decays))
            assert found[key] == expected, key
            if not key.startswith('backbone.'):
                assert found[key][0] == 1.0


def test_the_values_of_a_small_pyramid_by_hand():
    """PaCa with one block a stage: 0 the stem, 1 to 4 the blocks, 5 the head."""
    found = settings(host('cls', 'paca'), layer_decay_rate=0.5)
    assert {key: found[f'backbone.{key}'] for key in (
        'patch_embed.proj.0.weight', 'stage1.0.attn.q.weight', 'stage1.0.attn.q.bias',
        'norm1.weight', 'stage4.0.mlp.fc1.weight',
        'stage1.0.attn.clustering.to_clusters.weight',
    )} == {
        'patch_embed.proj.0.weight': (1 / 32, 1),
        'stage1.0.attn.q.weight': (1 / 16, 1),
        'stage1.0.attn.q.bias': (1 / 16, 0),
        'norm1.weight': (1 / 16, 0),
        'stage4.0.mlp.fc1.weight': (1 / 2, 1),
        'stage1.0.attn.clustering.to_clusters.weight': (1 / 16, 1),
    }  # fmt: skip
    assert found['head.fc.weight'] == (1, 1)
    assert found['head.fc.bias'] == (1, 0)


def test_mmpretrains_own_constructor_gives_the_same_learning_rates():
    model = host('cls', 'paca')
    theirs = optimizer(model, 'mmpretrain.LearningRateDecayOptimWrapperConstructor',
                       layer_decay_rate=0.5, norm_decay_mult=0.0, bias_decay_mult=0.0)  # fmt: skip
    ours = settings(model, layer_decay_rate=0.5)
    for group in theirs.param_groups:
        assert ours[group['param_name']][0] == pytest.approx(group['lr'] / LR)


def test_a_hosts_keys_for_the_backbone_do_not_let_its_norms_decay():
    """``'backbone': dict(lr_mult=0.1, decay_mult=1.0)`` stands in the schedules of DETR and others."""
    model = host('det', 'paca')
    keys = {'backbone': dict(lr_mult=0.1, decay_mult=1.0), 'stage1.0.mlp': dict(decay_mult=0.5)}
    found = settings(model, custom_keys=keys)
    assert found['backbone.norm1.weight'] == (0.1, 0)
    assert found['backbone.stage1.0.attn.q.weight'] == (0.1, 1)
    assert found['backbone.stage1.0.attn.q.bias'] == (0.1, 0)
    assert found['backbone.stage1.0.mlp.fc1.weight'] == (1, 0.5)  # the longest key alone
    assert found['bbox_head.retina_cls.weight'] == (1, 1)
    stock = optimizer(
        model, 'DefaultOptimWrapperConstructor', norm_decay_mult=0.0, custom_keys=keys
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(p)]: g['weight_decay'] for g in stock.param_groups for p in g['params']}
    assert decays['backbone.norm1.weight'] == DECAY  # what this is for


def test_multipliers_that_are_given_win():
    found = settings(host('cls', 'paca'), norm_decay_mult=1.0, bias_decay_mult=0.5, bias_lr_mult=2.0,
                     dwconv_decay_mult=0.0)  # fmt: skip
    assert found['backbone.norm1.weight'] == (1, 1)
    assert found['backbone.stage1.0.attn.q.bias'] == (2, 0.5)
    assert found['backbone.stage1.0.mlp.dwconv.weight'] == (1, 0)


def test_what_is_wrong_is_named():
    pytest.importorskip('mmpretrain')
    with pytest.raises(
        UserError, match=r'has decay_rate, num_layers.*mmdetection calls layer_decay_rate so'
    ):
        optimizer(nn.Linear(2, 2), decay_rate=0.8, num_layers=12)
    with pytest.raises(UserError, match='counts its layers'):
        optimizer(nn.Linear(2, 2), layer_decay_rate=0.8)
    assert optimizer(nn.Linear(2, 2)).param_groups[0]['lr'] == LR


def test_a_shared_parameter_is_taken_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert len([p for g in optimizer(model).param_groups for p in g['params']]) == 3


def test_the_fragment_stands_beside_a_hosts_schedule(tmp_path):
    pytest.importorskip('mmdet')
    (tmp_path / 'schedule.py').write_text(
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, "
        "weight_decay=0.05), paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))\n"
    )
    config = tiny.write_config(
        tmp_path / 'own.py', 'det', rest='optim_wrapper = dict(**_base_.paca_layer_decay)'
    )
    fragment = assets_root() / 'configs/_base_/optim.py'
    text = config.read_text().partition('\n')[2]
    base = assets_root() / 'configs/det/mask_rcnn_paca_shapes.py'
    config.write_text(f'_base_ = [{str(base)!r}, {str(fragment)!r}]\n{text}')
    cfg = load_config(str(config))
    assert cfg.optim_wrapper.constructor == OURS
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult == 0  # of the schedule
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert sorted(
        {round(g['lr_scale'], 6) for g in wrapper.optimizer.param_groups if 'lr_scale' in g}
    ) == [round(0.8**n, 6) for n in (5, 4, 3, 2, 1)]


def test_the_fragment_is_imported_by_a_pure_python_config(tmp_path):
    (tmp_path / 'optim.py').write_text((assets_root() / 'configs/_base_/optim.py').read_text())
    (tmp_path / 'own.py').write_text(
        'from mmengine.config import read_base\n'
        'from torch.optim import AdamW\n'
        'with read_base():\n'
        '    from .optim import *\n'
        'optim_wrapper = dict(optimizer=dict(type=AdamW, lr=0.01))\n'
        'optim_wrapper.update(paca_optim)\n'
    )
    cfg = load_config(str(tmp_path / 'own.py'))
    groups = build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper).optimizer.param_groups
    assert [group['lr'] for group in groups] == [0.01]


def test_a_gradient_step_moves_what_is_not_frozen():
    model = host('cls', 'paca', frozen_stages=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = optimizer(model, layer_decay_rate=0.9)
    sum((out**2).mean() for out in model.backbone(torch.rand(1, 3, 64, 64))).backward()
    made.step()
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert 'backbone.stage2.0.attn.q.weight' in moved
    assert not any(key.startswith(('backbone.patch_embed', 'backbone.stage1.')) for key in moved)
