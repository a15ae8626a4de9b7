"""CastlingViT: a host's ViT, its class and keys, with its attention exchanged; DeiT's weights in it."""

import copy
import io
import re

import pytest
import torch

pytest.importorskip('mmpretrain')

from castling.castling_reference import attention as reference
from mmengine.registry import MODELS, DefaultScope

from helpers import golden
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention
from paca_mm.models.castling.attention import castling_attentions, remove_softmax_branches
from paca_mm.models.castling.deit import load_vit

#: A ViT that is small enough for float64.
ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


def castling(vit=VIT, **kwargs):
    return build(dict(type='paca_mm.CastlingViT', vit=vit, **kwargs))


def evaluated(model):
    """The model in eval mode; mmpretrain's own ``eval`` returns nothing."""
    model.eval()
    return model


# ---- the exchange


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(type='DistilledVisionTransformer'),
        dict(with_cls_token=False, out_type='avg_featmap'),
        dict(out_type='featmap', qkv_bias=False),
        dict(layer_scale_init_value=0.1),
        dict(type='DeiT3'),
        dict(pre_norm=True),
        dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
    ],
    ids=lambda changes: '-'.join(map(str, changes.values())) or 'vit',
)
def test_it_is_the_hosts_module_with_the_hosts_keys(changes):
    vit = {**VIT, **changes}
    before = copy.deepcopy(vit)
    host, model = build(vit), castling(vit)
    assert vit == before
    assert type(model) is type(host)
    kernels = {f'layers.{i}.attn.dconv.weight' for i in range(2)}
    assert {*model.state_dict()} == {*host.state_dict()} | kernels
    for key, value in host.state_dict().items():
        assert model.state_dict()[key].shape == value.shape
    golden.fill(model).train()
    outs = model(golden.image(2, 32, 40))[-1]
    sum(out.square().sum() for out in (outs if isinstance(outs, tuple) else (outs,))).backward()
    unused = ('ln1.',) if changes.get('type') == 'DeiT3' else ()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None or 'ln2' in key or key.startswith(unused), key


@pytest.mark.parametrize('arch', ['deit-tiny', 'small', 'deit-small'])
def test_every_named_arch_has_its_own_heads(arch):
    with torch.device('meta'):
        model = castling(dict(type='VisionTransformer', arch=arch))
    heads = {'deit-tiny': 3, 'small': 8, 'deit-small': 6}[arch]
    assert [a.num_heads for a in castling_attentions(model)] == [heads] * model.num_layers


def test_the_attention_reads_all_tokens_the_class_token_first():
    """The axis of the convolution is the host's token axis: what the layer gets is what it says."""
    model = evaluated(golden.fill(castling()).double())
    attention = model.layers[0].attn
    seen = []
    attention.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out)))
    with torch.no_grad():
        model(golden.image(1, 32, 32).double())
        ((x, out),) = seen
        assert x.shape == (1, 17, 24)
        patches, _ = model.patch_embed(golden.image(1, 32, 32).double())
        sequence = torch.cat([model.cls_token, patches], 1) + model.pos_embed
        torch.testing.assert_close(x, model.layers[0].ln1(sequence))
        torch.testing.assert_close(out, reference(attention, x, 0.02), rtol=1e-6, atol=1e-8)


def test_layer_scale_and_stochastic_depth_of_the_host_stay():
    vit = {**VIT, 'layer_scale_init_value': 0.5, 'drop_path_rate': 0.9}
    model = evaluated(golden.fill(castling(vit)).double())
    attention = model.layers[1].attn
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(attention, x, 0.02) * attention.gamma1.weight
        torch.testing.assert_close(attention(x), expected, rtol=1e-6, atol=1e-8)
        many = attention.train()(x.repeat(50, 1, 1))
    assert (many.flatten(1) == 0).all(1).float().mean() > 0.7  # dropped paths


def test_frozen_stages_and_layer_depths_are_the_hosts():
    model = castling({**VIT, 'frozen_stages': 1})
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert 'layers.0.attn.dconv.weight' in frozen
    assert not any(key.startswith('layers.1.') for key in frozen)
    assert not model.layers[0].attn.training
    assert model.layers[1].attn.training
    assert model.get_layer_depth('backbone.layers.1.attn.dconv.weight', 'backbone.') == (2, 4)


def test_copies_and_pickles_are_the_model(tmp_path):
    source = evaluated(golden.fill(castling()))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    model = castling(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    image = golden.image(1, 32, 32)
    for other in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        other.init_weights()  # its own, and not those of the module that it was copied from
        with torch.no_grad():
            assert torch.equal(evaluated(other)(image)[-1], source(image)[-1])
    assert not torch.equal(model.layers[0].attn.dconv.weight, source.layers[0].attn.dconv.weight)


def test_without_branches_it_is_the_linear_part():
    model = evaluated(golden.fill(castling()))
    assert remove_softmax_branches(model) is model
    linear = evaluated(castling(softmax_branch=False))
    linear.load_state_dict(dict(model.state_dict()))
    image = golden.image(1, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(image)[-1], linear(image)[-1])


@pytest.mark.parametrize(
    ('vit', 'found'),
    [
        (
            dict(type='SwinTransformer', arch='tiny'),
            r'12 x ShiftWindowMSA \(stages.0.blocks.0.attn',
        ),
        (dict(type='BEiTViT', arch='deit-tiny'), r'12 x BEiTAttention'),
        (dict(type='ViTEVA02', arch='tiny'), r'12 x AttentionWithRoPE'),
        (dict(type='T2T_ViT'), r'2 x MultiheadAttention with a shortcut.*14 x .*with qk_scale'),
        (dict(type='ResNet', depth=18), 'no attention at all'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_other_attention_is_refused_with_one_message(vit, found):
    with pytest.raises(UserError, match=found) as e:
        castling(vit)
    assert f'cannot exchange the attention of {vit["type"]}' in str(e.value)
    assert 'to fix it' in str(e.value)


def test_dropped_softmax_weights_are_refused():
    with pytest.raises(UserError, match=r'attn_drop=0.1, which drops softmax weights'):
        castling({**VIT, 'layer_cfgs': dict(attn_drop_rate=0.1)})


def test_no_config_is_refused():
    with pytest.raises(UserError, match='must be the config of a ViT'):
        castling('deit-tiny')


# ---- DeiT's weights


@pytest.fixture(scope='module')
def deit():
    """A classifier of mmpretrain with softmax attention."""
    head = dict(type='VisionTransformerClsHead', num_classes=5, in_channels=24)
    return golden.fill(build(dict(type='ImageClassifier', backbone=VIT, head=head)))


def test_deits_weights_load_with_a_report(deit, tmp_path):
    file = tmp_path / 'deit.pth'
    torch.save(dict(state_dict=deit.state_dict(), meta={}), file)
    model = castling()
    fresh = {k: v.clone() for k, v in model.state_dict().items() if 'dconv' in k}
    report = load_vit(model, file)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if 'dconv' in key else deit.backbone.state_dict()[key])
    text = str(report)
    assert re.search(r'loaded 30 of 32 tensors from .*deit\.pth \(state_dict\)', text)
    taken, new, left = text.splitlines()[1:]
    assert re.search(
        r'taken: .*layers\.\*\.attn\.qkv\.weight \(2\).*attn\.proj\.weight \(2\)', taken
    )
    assert 'new' in new
    assert new.endswith('layers.*.attn.dconv.weight (2)')
    assert left.startswith('left: head.layers.head.weight')


def test_init_cfg_loads_them_inside_a_classifier_and_they_stay(deit, tmp_path):
    torch.save(dict(state_dict=deit.state_dict()), tmp_path / 'deit.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'deit.pth'))
    for backbone in (
        dict(type='paca_mm.CastlingViT', vit=VIT, init_cfg=init_cfg),
        dict(type='paca_mm.CastlingViT', vit={**VIT, 'init_cfg': init_cfg}),
    ):
        head = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=24)
        init = [dict(type='TruncNormal', layer='Linear', std=0.02)]
        model = build(dict(type='ImageClassifier', backbone=backbone, head=head, init_cfg=init))
        for _ in range(2):  # a Runner calls it again
            model.init_weights()
        for key, value in deit.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[key], value), key


def test_position_embeddings_are_resampled_and_a_class_token_left_out(deit, tmp_path):
    torch.save(dict(state_dict=deit.state_dict()), tmp_path / 'deit.pth')
    model = castling({**VIT, 'img_size': 64})
    load_vit(model, tmp_path / 'deit.pth')
    assert torch.equal(model.pos_embed[:, 0], deit.backbone.pos_embed[:, 0])
    assert model.pos_embed.shape == (1, 65, 24)
    model = castling({**VIT, 'with_cls_token': False, 'out_type': 'avg_featmap'})
    report = load_vit(model, tmp_path / 'deit.pth')
    assert torch.equal(model.pos_embed, deit.backbone.pos_embed[:, 1:])
    assert {'ln2.weight', 'ln2.bias'} <= {*report.new}
    assert 'cls_token' in report.unexpected


def test_official_names_are_understood(tmp_path):
    """Those of timm, which are DeiT's own: the same features."""
    timm = pytest.importorskip('timm', minversion='1.0')
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=4
    )
    golden.fill(theirs).eval()
    torch.save(dict(model=theirs.state_dict()), tmp_path / 'official.pth')
    host, model = evaluated(build(VIT)), castling()
    report = load_vit(host, tmp_path / 'official.pth')
    assert not report.new
    assert {*report.unexpected} == {'head.weight', 'head.bias'}
    image = golden.image(2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            host(image)[-1], theirs.forward_features(image)[:, 0], rtol=1e-4, atol=1e-5
        )
    load_vit(model, tmp_path / 'official.pth')
    assert torch.equal(model.layers[1].attn.qkv.weight, theirs.blocks[1].attn.qkv.weight)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(arch={**ARCH, 'num_layers': 3}), r'missing in the file: layers\.2\.'),
        (dict(arch={**ARCH, 'num_layers': 1}), r'not in the model: layers\.1\.'),
        (dict(arch={**ARCH, 'embed_dims': 48}), r'another shape: .*cls_token \(1, 1, 24\) for'),
        (dict(type='DistilledVisionTransformer'), r'missing in the file: dist_token'),
    ],
)
def test_weights_of_another_vit_are_refused(deit, tmp_path, changes, message):
    torch.save(dict(state_dict=deit.state_dict()), tmp_path / 'deit.pth')
    with pytest.raises(UserError, match=message):
        load_vit(castling({**VIT, **changes}), tmp_path / 'deit.pth')


def test_a_distilled_file_names_its_class(tmp_path):
    distilled = build({**VIT, 'type': 'DistilledVisionTransformer'})
    torch.save(distilled.state_dict(), tmp_path / 'distilled.pth')
    with pytest.raises(UserError, match=r"dist_token(.|\n)*type='DistilledVisionTransformer'"):
        load_vit(castling(), tmp_path / 'distilled.pth')
    load_vit(castling({**VIT, 'type': 'DistilledVisionTransformer'}), tmp_path / 'distilled.pth')


def test_what_holds_no_vit_is_refused(tmp_path):
    torch.save(CastlingAttention(8, 2).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='holds no ViT'):
        load_vit(castling(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='needs checkpoint='):
        load_vit(castling(), None)


# ---- the benchmark


def test_a_row_is_a_contestant_of_the_benchmark():
    from paca_mm.analysis.speed.contestants import known, variants
    from paca_mm.models.castling.contestants import backbone
    from paca_mm.models.castling.rows import ROWS

    assert {*ROWS} <= {*known()}
    assert {'masked', 'softmax', 'castling'} <= variants().keys()
    arguments = dict(vit={**VIT, 'type': 'mmpretrain.VisionTransformer'})
    made = {name: backbone(arguments, [name] if name else []) for name in ('', 'masked', 'softmax')}
    found = {name: [a.softmax_branch for a in castling_attentions(m)] for name, m in made.items()}
    assert found == {'': [False] * 2, 'masked': [True] * 2, 'softmax': []}
    for model in made.values():
        assert model(golden.image(1, 32, 32))[-1].shape == (1, 24, 4, 4)
    with pytest.raises(UserError, match='do not go together'):
        backbone(arguments, ['masked', 'softmax'])
    with pytest.raises(UserError, match="no variant 'cp'"):
        backbone(arguments, ['cp'])
