"""PaCaViT(plain_attention='castling'): Castling's attention in stages without clusters."""

import subprocess
import sys

import pytest
import torch
from castling.castling_reference import attention as reference

from helpers import golden
from helpers.rows import MINI
from paca_mm import families
from paca_mm.analysis.flops import count
from paca_mm.errors import UserError
from paca_mm.models import CastlingAttention, PaCaViT
from paca_mm.models.castling.attention import castling_attentions
from paca_mm.models.paca.keys import LAYOUT

CLUSTERS = (7, 5, 3, 0)


def make(**kwargs):
    arguments = {'arch': MINI, 'num_clusters': CLUSTERS, 'drop_path_rate': 0.0, **kwargs}
    return golden.fill(PaCaViT(**arguments)).eval()


def test_stages_without_clusters_and_no_others_have_it():
    model = make(plain_attention='castling', num_clusters=(7, 0, 3, 0))
    found = {n for n, m in model.named_modules() if isinstance(m, CastlingAttention)}
    stages = {'stage2': 3, 'stage4': 2}
    assert found == {f'{s}.{j}.attn.inner' for s, depth in stages.items() for j in range(depth)}
    assert not any(a.softmax_branch for a in castling_attentions(model))
    branch = make(plain_attention=dict(softmax_branch=True, kernel_size=5))
    assert all(a.softmax_branch for a in castling_attentions(branch))


def test_the_default_has_its_old_keys_and_outputs():
    plain, named = make(), make(plain_attention='softmax')
    assert plain.state_dict().keys() == named.state_dict().keys()
    assert not any('inner' in key for key in plain.state_dict())
    image = golden.image(1, 64, 64)
    with torch.no_grad():
        for a, b in zip(plain(image), named(image), strict=True):
            assert torch.equal(a, b)


def test_a_block_adds_the_attention_of_its_patches_row_after_row():
    model = make(plain_attention='castling').double()
    block = model.stage4[0]
    x = torch.randn(2, 3, 5, 40, dtype=torch.float64)
    tokens = block.norm1(x).flatten(1, 2)
    with torch.no_grad():
        out, z = block.attn(block.norm1(x), None)
        expected = reference(block.attn.inner, tokens).view(x.shape)
    assert z is None
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-9)


def test_the_cost_is_linear_in_the_patches():
    """At eight times the side the softmax attention of the last stage has 4096 times the products."""
    macs = {
        side: count(
            make(plain_attention='castling'), lambda m, side=side: m(torch.rand(1, 3, side, side))
        ).macs
        for side in (64, 128, 256)
    }
    assert macs[128] == 4 * macs[64] - 3 * _constant(macs)
    assert macs[256] / macs[64] < 16.0
    softmax = count(make(), lambda m: m(torch.rand(1, 3, 256, 256))).macs
    assert softmax != macs[256]


def _constant(macs):
    """What does not grow with the image: the clusters' own layers."""
    return (4 * macs[128] - macs[256]) // 3


def test_checkpoints_show_it(tmp_path):
    model = make(plain_attention='castling')
    found = LAYOUT.settings(model.state_dict())
    assert found['plain_attention'] == 'castling'
    assert LAYOUT.rows(found) == ()
    assert "plain_attention='castling'" in LAYOUT.describe_state(model.state_dict())
    torch.save(make().state_dict(), tmp_path / 'softmax.pth')
    wrong = make(
        plain_attention='castling',
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'softmax.pth')),
    )
    wrong.is_init = False
    with pytest.raises(UserError, match=r"the model is .*plain_attention='castling'"):
        wrong.init_weights()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(plain_attention='linear'), r"'linear' is unknown; choose 'softmax', 'castling'"),
        (dict(plain_attention='castling', num_clusters=(7, 5, 3, 2)), r'leaves none: leave it out'),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_paca_does_without_the_family(monkeypatch):
    """As if its folder were deleted: PaCa works, and says what is missing where it is asked for."""
    known = {name: f for name, f in families.families().items() if name != 'castling'}
    monkeypatch.setattr(families, 'families', lambda: known)
    make()
    with pytest.raises(UserError, match=r"needs the family castling .*plain_attention='softmax'"):
        make(plain_attention='castling')


@pytest.mark.slow
def test_paca_does_not_import_the_family_unasked():
    code = (
        'import sys; from paca_mm.models.paca.backbone import PaCaViT; '
        "PaCaViT('tiny', out_indices=(0,)); "
        "sys.exit('paca_mm.models.castling.attention' in sys.modules)"
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_it_is_a_variant_of_the_benchmark():
    from paca_mm.models.paca.contestants import HeadAlone, backbone

    arguments = dict(arch=MINI, num_clusters=CLUSTERS)
    assert len(castling_attentions(backbone(arguments, ['castling']))) == 2
    assert not castling_attentions(backbone(arguments, []))
    for no in ('plain', 'stages123'):
        with pytest.raises(UserError, match='leave it out'):
            backbone(arguments, ['castling', no])
    with pytest.raises(UserError, match='no stages'):
        HeadAlone(['castling'])
