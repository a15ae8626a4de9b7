"""PaCa with Castling's attention in its stages without clusters."""

import sys

import pytest
import torch

from helpers import golden
from helpers.rows import MINI
from paca_mm import families
from paca_mm.analysis.flops import count
from paca_mm.checkpoint.layout import KeyLayout
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention, PaCaViT

CLUSTERS = (4, 4, 4, 0)


def make(plain_attention='castling', **kwargs):
    arguments = dict(arch=MINI, num_clusters=CLUSTERS, drop_path_rate=0.0)
    return golden.fill(PaCaViT(**arguments, plain_attention=plain_attention, **kwargs))


def test_only_the_stages_without_clusters_have_it():
    model, plain = make(), make('softmax')
    found = [n for n, m in model.named_modules() if isinstance(m, CastlingAttention)]
    assert found == [f'stage4.{j}.attn.inner' for j in range(model.depths[3])]
    assert not any(model.get_submodule(name).softmax_branch for name in found)
    changed = {*model.state_dict()} ^ {*plain.state_dict()}
    assert changed
    assert all(key.startswith('stage4.') and '.attn.' in key for key in changed)
    assert not any(isinstance(m, CastlingAttention) for m in plain.modules())
    default = PaCaViT(arch=MINI, num_clusters=CLUSTERS)
    assert [*default.state_dict()] == [*plain.state_dict()]


def test_it_is_the_attention_on_the_patches_of_the_stage():
    model = make().eval()
    block, tokens = model.stage4[0], torch.randn(2, 3, 5, model.embed_dims[3])
    with torch.no_grad():
        out, z = block.attn(tokens)
        expected = block.attn.inner(tokens.reshape(2, 15, -1)).reshape(tokens.shape)
    assert z is None
    assert torch.equal(out, expected)


def test_the_cost_of_every_stage_grows_linearly():
    """Four times the patches, four times the growth (the clusters stay); with softmax it is more."""
    model, plain = make(), make('softmax')

    def macs(model, side):
        image = torch.rand(1, 3, side, side)
        return count(model.eval(), lambda m: m(image)).macs

    for attention, is_linear in ((model, True), (plain, False)):
        small, middle, large = (macs(attention, side) for side in (64, 128, 256))
        assert ((large - middle) == 4 * (middle - small)) == is_linear


def test_gradients_recomputing_and_autocast():
    image, found = golden.image(2, 64, 64), []
    for with_cp in (False, True):
        model = make(with_cp=with_cp).train()
        outs = model(image)
        sum((out**2 * out.detach()).mean() for out in outs).backward()
        found.append([*outs, *(p.grad for p in model.parameters())])
        for key, parameter in model.stage4.named_parameters():
            assert parameter.grad.abs().max() > 0, key
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
    model.eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        for exact, rough in zip(outs, model(image), strict=True):
            assert (exact.detach() - rough.float()).norm() / exact.norm() < 0.05


@pytest.mark.slow
def test_it_compiles_as_one_graph():
    model, image = make().eval(), golden.image(1, 64, 64)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(model(image), compiled(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_keys_and_settings_go_through_the_layout():
    model = make()
    layout: KeyLayout = model.layout
    state = {**model.state_dict()}
    layout.to_official(state)
    layout.to_ours(state, bare=True)
    assert state.keys() == model.state_dict().keys()
    assert layout.settings(state)['plain_attention'] == 'castling'
    assert 'plain_attention' not in layout.settings(make('softmax').state_dict())


def test_without_the_family_paca_works_and_says_so(monkeypatch):
    known = {name: f for name, f in families.families().items() if name != 'castling'}
    monkeypatch.setattr(families, 'families', lambda: known)
    make('softmax')
    with pytest.raises(UserError, match=r"plain_attention='castling' needs the family castling"):
        make()


def test_paca_does_not_import_it_unasked():
    import subprocess

    code = 'import sys; from paca_mm.models import PaCaViT; PaCaViT("tiny"); print(*sys.modules)'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'paca_mm.models.paca.backbone' in said.stdout
    assert 'paca_mm.models.castling.attention' not in said.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(plain_attention='linear'), r"'linear' is unknown; choose 'softmax', 'castling', or a d"),
        (dict(num_clusters=(4, 4, 4, 4)), r'is for stages without clusters.*leaves none'),
        (dict(plain_attention=dict(kernel_size=2)), r'kernel_size=2 must be an odd number'),
    ],
)  # fmt: skip
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        PaCaViT(
            **{**dict(arch=MINI, num_clusters=CLUSTERS, plain_attention='castling'), **arguments}
        )
