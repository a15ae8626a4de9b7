"""The forms for deployment: the numbers of the layers that they stand for, before any export."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers import golden
from helpers.rows import MINI, mini
from paca_mm.export.model import deploy
from paca_mm.models.common.deploy import LinearMaps
from paca_mm.models.vittm.deploy import multiple, resampling

BACKBONES = {
    'conv_and_plain': dict(name='conv', arch=MINI, num_clusters=(7, 7, 7, 0)),
    'mlp': dict(name='mlp', arch=MINI, num_clusters=(7, 5, 0, 3)),
    'linear': dict(name='linear', arch=MINI, num_clusters=(7, 5, 3, 0)),
    'blockwise': dict(
        name='blockwise', arch=dict(MINI, depths=(2, 1, 1, 1)), num_clusters=(7, 5, 3, 4)
    ),
    'teacher': dict(
        name='teacher', arch=dict(MINI, teacher_depths=(1, 1, 1, 1)), num_clusters=(7, 5, 3, 0)
    ),
}


def same(model, *images, form='fast'):
    """A model before and after: equal in float64; returns the deployed one."""
    model = model.eval().double().requires_grad_(False)
    deployed = copy.deepcopy(model)
    deploy(deployed, form)
    for image in images:
        before, after = model(image.double()), deployed(image.double())
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    return deployed


@pytest.mark.parametrize('form', ['fast', 'linear'])
@pytest.mark.parametrize('name', BACKBONES)
def test_paca_is_itself(name, form):
    deployed = same(
        mini(**BACKBONES[name]), golden.image(2, 64, 96), golden.image(1, 45, 83), form=form
    )
    kinds = {type(module).__name__ for module in deployed.modules()}
    assert not kinds & {'ConvFFN', 'PaCaAttention', 'ConvClustering', 'ClusteringTeacher'}


@pytest.mark.parametrize(
    'more',
    [
        dict(),
        dict(align_corners=True),
        dict(norm_cfg=None),
        dict(num_classes=2, out_channels=1),
        dict(in_index=[1, 0], in_channels=[16, 8]),
    ],
    ids=['default', 'corners', 'no_norm', 'binary', 'order'],
)
def test_the_head_is_itself(more):
    head = pytest.importorskip('paca_mm.models.paca.head', reason='mmseg is not installed')
    maps = [torch.randn(2, c, h, w) for c, h, w in ((8, 24, 31), (16, 12, 16))]
    settings = dict(in_channels=[8, 16], channels=12, num_classes=5, dropout_ratio=0.0)
    one = golden.fill(head.PaCaHead(**{**settings, **more})).eval().double().requires_grad_(False)
    holder = nn.ModuleList([copy.deepcopy(one)])
    deploy(holder)
    assert type(holder[0]) is not head.PaCaHead
    x = [m.double() for m in maps]
    torch.testing.assert_close(holder[0](x), one(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('corners', [False, True])
@pytest.mark.parametrize(
    ('small', 'large'), [((5, 7), (10, 14)), ((5, 7), (9, 13)), ((4, 4), (4, 11))]
)
def test_resizing_as_matrices(small, large, corners):
    maps = LinearMaps(corners)
    x = torch.randn(2, 3, *small, dtype=torch.float64)
    expected = F.interpolate(x, large, mode='bilinear', align_corners=corners)
    rows, columns = (maps.matrix(s, n, x) for s, n in zip(small, large, strict=True))
    torch.testing.assert_close(rows.t() @ x @ columns, expected)
    z = torch.randn(2, 3, *large, dtype=torch.float64)
    # <z, R x> = <z R, x>
    torch.testing.assert_close((maps.adjoint(z, small) * x).sum(), (z * expected).sum())


@pytest.mark.parametrize(('old', 'new'), [(8, 8), (8, 13), (8, 5), (8, 3), (14, 36), (7, 1)])
def test_positions_by_matrices_are_torchs_resizing(old, new):
    x = torch.randn(1, 4, old, 6, dtype=torch.float64)
    expected = F.interpolate(x, (new, 6), mode='bicubic', antialias=True)
    torch.testing.assert_close(resampling(old, new, x) @ x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('out_type', ['process', 'raw'])
def test_vittm_is_itself_at_every_size(out_type):
    vittm = pytest.importorskip('paca_mm.models.vittm.backbone')
    arch = dict(embed_dims=16, num_layers=2, num_heads=2)
    settings = dict(arch=arch, img_size=64, memory_patch=8, process_patch=16, out_type=out_type)
    model = golden.fill(vittm.ViTTM(**settings))
    assert multiple(model) == 16
    model = model.eval().double().requires_grad_(False)
    deployed = copy.deepcopy(model)
    deploy(deployed)
    for size in ((64, 64), (96, 48), (32, 160)):
        image = golden.image(2, *size).double()
        # torch resamples positions in float32
        torch.testing.assert_close(deployed(image), model(image), rtol=1e-5, atol=1e-5)


def test_vittm_pads_inside_of_the_graph():
    vittm = pytest.importorskip('paca_mm.models.vittm.backbone')
    arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    model = golden.fill(vittm.ViTTM(arch, 32, 8, 16, pad_to_patch=True))
    assert multiple(model) == 1
    same(model, golden.image(2, 32, 32), golden.image(1, 19, 27))


def test_rapidnet_is_folded():
    rapidnet = pytest.importorskip('paca_mm.models.rapidnet.backbone')
    arch = dict(embed_dims=(4, 8, 8, 16), inverted_blocks=(1, 1, 0, 0), mldc_blocks=(0, 0, 1, 1))
    deployed = same(golden.fill(rapidnet.RapidNet(arch)), golden.image(2, 64, 45))
    assert deployed.deploy
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())


def test_castling_loses_a_branch_that_is_silent_and_no_other():
    castling = pytest.importorskip('paca_mm.models.castling.attention')
    module = pytest.importorskip('paca_mm.models.castling.deploy')
    attention = golden.fill(castling.CastlingAttention(8, 2, threshold=1.0)).eval()
    x = torch.randn(1, 5, 8)
    before = attention(x)
    module.deployed(attention, 'fast')
    assert not attention.softmax_branch
    torch.testing.assert_close(attention(x), before)
    loud = castling.CastlingAttention(8, 2, threshold=0.02)
    module.deployed(loud, 'fast')
    assert loud.softmax_branch
    assert 'CastlingHook' in module.notes(loud)[0]
    module.untrained(loud)
    assert not loud.softmax_branch
    assert module.notes(loud) == []


def test_a_layer_that_somebody_replaced_stays():
    class Own(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = mini(**BACKBONES['conv_and_plain']).eval()
    layer = model.stage1[0].mlp.fc1
    own = Own(layer.in_features, layer.out_features)
    own.load_state_dict(layer.state_dict())
    model.stage1[0].mlp.fc1 = own
    deployed = same(model, golden.image(1, 64, 64))
    assert type(deployed.stage1[0].mlp).__name__ == 'ConvFFN'
    assert type(deployed.stage2[0].mlp).__name__ != 'ConvFFN'
