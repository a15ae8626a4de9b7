"""How weights reach the backbones of every family: ``pretrained``, and images of other channels."""

import copy

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope

from helpers import golden
from paca_mm.checkpoint import load_pretrained, load_whole
from paca_mm.checkpoint.channels import adapted
from paca_mm.engine.checks import check_config
from paca_mm.errors import UserError
from paca_mm.families import families, load_member

FAMILIES = {name: family for name, family in families().items() if family.backbone and family.toy}
every_family = pytest.mark.parametrize('name', FAMILIES)


def build(name, **kwargs):
    family = FAMILIES[name]
    return load_member(family.backbone)(**{**family.toy, **kwargs})


@pytest.fixture
def file(name, tmp_path):
    """A checkpoint of the family's toy."""
    torch.manual_seed(11)
    torch.save(golden.fill(build(name)).state_dict(), tmp_path / 'toy.pth')
    return tmp_path / 'toy.pth'


def segmentor(name, pretrained, **backbone):
    pytest.importorskip('mmseg')
    family = FAMILIES[name]
    init_default_scope('mmseg')
    cfg = dict(
        type='EncoderDecoder',
        pretrained=pretrained,
        backbone=dict(type=f'paca_mm.{family.backbone}', **{**family.toy, **backbone}),
        decode_head=dict(type='FCNHead', in_channels=24, channels=8, num_classes=3,
                         norm_cfg=dict(type='BN')),
    )  # fmt: skip
    from mmengine.config import ConfigDict

    return MODELS.build(ConfigDict(cfg))


def same(model, file):
    return all(torch.equal(model.state_dict()[k], v) for k, v in torch.load(file).items())


@every_family
def test_a_segmentor_hands_its_pretrained_weights_on(name, file):
    model = segmentor(name, str(file))
    assert model.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(file))
    assert not same(model.backbone, file)
    model.init_weights()
    assert same(model.backbone, file)
    segmentor(name, None).init_weights()  # None is nothing
    both = dict(type='Pretrained', checkpoint=str(file))
    assert segmentor(name, str(file), init_cfg=both).backbone.init_cfg == both
    assert segmentor(name, None, init_cfg=both).backbone.init_cfg == both


@every_family
def test_weights_that_are_named_twice_and_differently_are_an_error(name, file):
    other = dict(type='Pretrained', checkpoint='other.pth')
    with pytest.raises(UserError, match=rf'named twice.*{file.name}.*other\.pth'):
        build(name, pretrained=str(file), init_cfg=other)


@every_family
def test_weights_of_a_hosts_own_backbone_are_refused_with_the_cure(name):
    model = segmentor(name, 'open-mmlab://resnet50_v1c')
    with pytest.raises(UserError, match=r'(?s)resnet50_v1c.*model\.pretrained=None'):
        model.init_weights()


@every_family
@pytest.mark.parametrize(
    'init',
    [
        lambda file: [
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Pretrained', checkpoint=file),
        ],
        lambda file: dict(type=_pretrained_init(), checkpoint=file),
    ],
)
def test_an_init_cfg_may_be_a_list_or_hold_a_class(name, file, init):
    model = build(name, init_cfg=init(str(file)))
    model.init_weights()
    assert same(model, file)


def _pretrained_init():
    from mmengine.model import PretrainedInit

    return PretrainedInit


def stems(name):
    return [f'{conv}.weight' for conv in FAMILIES[name].layout.first_convs]


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 12])
def test_a_convolution_is_adapted_as_timm_does_it(channels):
    weight = torch.randn(5, 3, 7, 7)
    own = adapted(weight, channels)
    if channels == 1:
        expected = weight.sum(1, keepdim=True)
    else:
        expected = torch.stack([weight[:, i % 3] * 3 / channels for i in range(channels)], 1)
    torch.testing.assert_close(own, expected)
    manipulate = pytest.importorskip('timm.models._manipulate', reason='timm is not installed')
    torch.testing.assert_close(own, manipulate.adapt_input_conv(channels, weight))


def test_a_gray_image_gives_what_it_gave_as_rgb():
    gray = torch.rand(1, 1, 16, 16)
    conv, one = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)
    one.load_state_dict({'weight': adapted(conv.weight, 1), 'bias': conv.bias})
    torch.testing.assert_close(one(gray), conv(gray.expand(1, 3, 16, 16)))


@every_family
@pytest.mark.parametrize(('channels', 'official'), [(1, False), (4, True), (6, False)])
def test_weights_of_rgb_images_are_adapted(name, file, channels, official):
    source = torch.load(file)
    state = copy.copy(source)
    if official:
        FAMILIES[name].layout.to_official(state)
        torch.save(state, file)
    for report, model in (
        by_init_cfg(name, file, channels),
        by_load_from(name, file, channels),
        by_a_model_around_it(name, file, channels),
    ):
        for key, value in source.items():
            expected = adapted(value, channels) if key in stems(name) else value
            if key in model.state_dict():
                torch.testing.assert_close(model.state_dict()[key], expected)
        if report is not None:
            assert [change.key.removeprefix('0.') for change in report.adapted] == stems(name)
            assert f'adapted from 3 image channels to {channels} (' in str(report)
            assert not report.reset
        images = golden.image(2, 64, 64).repeat(1, 4, 1, 1)[:, :channels]
        assert len(model(images)) == len(model.out_indices)


def by_init_cfg(name, file, channels):
    model = build(name, in_channels=channels)
    return load_pretrained(model, file), model


def by_load_from(name, file, channels):
    whole = nn.Sequential(build(name, in_channels=channels), nn.Linear(2, 2))
    state = {f'0.{key}': value for key, value in torch.load(file).items()}
    return load_whole(whole, state, file, strict=False), whole[0]


class Around(BaseModule):
    """A model whose own ``init_cfg`` loads all of it, as mmpretrain's ``pretrained`` does."""

    def __init__(self, backbone, init_cfg):
        super().__init__(init_cfg)
        self.backbone = backbone


def by_a_model_around_it(name, file, channels):
    whole = file.with_name('whole.pth')
    torch.save({f'backbone.{key}': value for key, value in torch.load(file).items()}, whole)
    init = dict(type='Pretrained', checkpoint=str(whole))
    model = Around(build(name, in_channels=channels), init)
    model.init_weights()
    return None, model.backbone


@every_family
def test_where_the_numbers_must_be_those_of_the_file_nothing_is_adapted(name, file):
    model = build(name, in_channels=4)
    with pytest.raises(UserError, match=r'reads images of 3 channels in the file, of 4 here'):
        load_whole(model, torch.load(file), file, strict=True)  # testing, resuming
    with pytest.raises(RuntimeError, match='size mismatch'):
        model.load_state_dict(torch.load(file))


@every_family
@pytest.mark.parametrize(('found', 'own'), [(4, 3), (4, 6), (1, 3)])
def test_weights_of_other_images_than_rgb_are_not_adapted(name, tmp_path, found, own):
    file = tmp_path / 'other.pth'
    torch.save(build(name, in_channels=found).state_dict(), file)
    model = build(name, in_channels=own)
    with pytest.raises(UserError) as e:
        load_pretrained(model, file)
    assert f'in_channels={found}' in str(e.value).partition('the model is')[0]
    assert f'reads images of {found} channels in the file, of {own} here' in str(e.value)
    assert 'Only weights of 3 channels are adapted' in str(e.value)
    report = load_whole(model, torch.load(file), file, strict=False)  # as before: it starts again
    assert [key for key, *_ in report.reset] == stems(name)
    assert 'Only weights of 3 channels are adapted' in str(report)
    assert load_pretrained(build(name, in_channels=found), file).adapted == ()


@every_family
def test_positions_and_channels_may_both_differ(name, file):
    if 'img_size' not in FAMILIES[name].toy:
        pytest.skip('it has no positions')
    model = build(name, in_channels=4, img_size=96)
    assert len(load_pretrained(model, file).adapted) == len(stems(name))


@every_family
def test_a_checkpoint_of_other_channels_goes_to_the_official_layout_and_back(name, tmp_path):
    layout = FAMILIES[name].layout
    state = build(name, in_channels=4).state_dict()
    settings = layout.settings(state)
    assert settings['in_channels'] == 4
    assert not layout.rows(settings)
    assert 'in_channels=4' in layout.describe_state(state)
    assert 'in_channels' not in layout.settings(build(name).state_dict())


CHECKED = dict(default_scope='mmseg', train_dataloader=None)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(pretrained='open-mmlab://resnet50_v1c'),
            r'resnet50_v1c.*PaCaViT.*model\.pretrained=None',
        ),
        (
            dict(pretrained='nowhere.pth'),
            r'weights that pretrained names do not exist.*nowhere\.pth',
        ),
        (dict(pretrained='a.pth', init='b.pth'), r"named twice.*'a\.pth'.*'b\.pth'"),
        (dict(pretrained=None), None),
        (dict(pretrained=None, init=None), None),
    ],
)
def test_the_check_before_a_run_looks_at_the_models_weights_too(model, message):
    pytest.importorskip('mmseg')
    from mmengine.config import Config

    backbone = dict(type='paca_mm.PaCaViT')
    if init := model.pop('init', None):
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=init)
    cfg = Config(dict(model=dict(type='EncoderDecoder', backbone=backbone, **model), **CHECKED))
    if message is None:
        check_config(cfg, ['train'])
        return
    with pytest.raises(UserError, match=f'(?s){message}'):
        check_config(cfg, ['train'])


def test_castling_and_replaced_norms_take_pretrained_and_other_channels(tmp_path):
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    sizes = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
    vit = dict(type='VisionTransformer', arch=sizes, img_size=32, patch_size=16)
    torch.save(MODELS.build(vit).state_dict(), tmp_path / 'vit.pth')
    weights = dict(pretrained=str(tmp_path / 'vit.pth'))
    model = MODELS.build(dict(type='paca_mm.CastlingViT', vit={**vit, 'in_channels': 4}, **weights))
    model.init_weights()
    kernel = torch.load(tmp_path / 'vit.pth')['patch_embed.projection.weight']
    torch.testing.assert_close(model.patch_embed.projection.weight, adapted(kernel, 4))

    resnet = dict(type='ResNet', depth=18)
    torch.save(MODELS.build(resnet).state_dict(), tmp_path / 'vit.pth')
    norms = {r'layer1\.0\.bn1': dict(type='BN')}
    model = MODELS.build(dict(type='paca_mm.ReplaceNorms', module=resnet, norms=norms, **weights))
    model.init_weights()
    assert same(model, tmp_path / 'vit.pth')
    with pytest.raises(UserError, match='named twice'):
        MODELS.build(dict(type='paca_mm.CastlingViT', vit=vit, **weights,
                          init_cfg=dict(type='Pretrained', checkpoint='b.pth')))  # fmt: skip


def test_the_embedded_dataset_leaves_the_models_weights_out(tmp_path):
    from paca_mm.engine.walk import leave_weights_out

    model = dict(pretrained='a.pth', backbone=dict(pretrained=True), neck=dict(pretrained=None))
    leave_weights_out(model)
    assert model == dict(
        pretrained=None, backbone=dict(pretrained=False), neck=dict(pretrained=None)
    )


@every_family
def test_timm_adapts_the_same_convolutions(name, tmp_path):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    import paca_mm.timm  # noqa: F401

    family = FAMILIES[name]
    row = f'{family.prefix}{next(iter(family.rows))}'
    first = timm.get_pretrained_cfg(row).first_conv
    first = [first] if isinstance(first, str) else list(first)
    assert first == [f'backbone.{conv}' for conv in family.layout.first_convs]
