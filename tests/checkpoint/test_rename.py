"""The rename table, both ways, and what happens when it is wrong."""

import pytest
import torch

from helpers import golden
from helpers.rows import MINI, MINI_TEACHER, ROWS
from paca_mm.checkpoint import rename_to_official, rename_to_ours
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT
from paca_mm.models.paca import keys

OFFICIAL = ['feat_tiny_conv', 'feat_small_mlp_ade', 'feat_small_teacher']


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'a.b.'])
@pytest.mark.parametrize('row', ROWS)
@pytest.mark.slow
def test_there_and_back(row, prefix):
    model = PaCaViT(**ROWS[row][0])
    state = {prefix + key: value for key, value in model.state_dict().items()}
    state['head.weight'] = torch.zeros(1)
    before = dict(state)
    rename_to_official(state, prefix)
    renamed = {key for key in state if 'blur_filter' not in key}
    assert len(renamed) == len(before)
    assert renamed != set(before)
    rename_to_ours(state, prefix)
    assert list(map(id, state.values()))
    assert state.keys() == before.keys()
    assert all(state[key] is value for key, value in before.items())


@pytest.mark.parametrize('name', OFFICIAL)
def test_gives_exactly_the_official_keys(name):
    meta, _ = golden.load(name)
    kwargs = {
        'feat_tiny_conv': dict(arch='tiny'),
        'feat_small_mlp_ade': dict(clustering='mlp', num_clusters=(200, 200, 200, 0)),
        'feat_small_teacher': dict(arch='small_teacher'),
    }[name]
    state = PaCaViT(**kwargs).state_dict()
    rename_to_official(state)
    found = {k: list(v.shape) for k, v in state.items() if not k.endswith('num_batches_tracked')}
    assert found == {k: list(s) for k, s in meta['shapes'].items()}


@pytest.mark.parametrize('name', OFFICIAL)
def test_a_wrong_row_in_the_table_is_caught(name, monkeypatch):
    """Two swapped rows of the same shape would load strictly and answer wrongly."""
    meta, answers = golden.load(name)
    swapped = [
        (official, {'norm1': 'norm2', 'norm2': 'norm1'}.get(ours[-5:], ''), ours)
        for official, ours in keys.BACKBONE
    ]
    monkeypatch.setattr(keys, 'BACKBONE', [(o, u[:-5] + s if s else u) for o, s, u in swapped])
    kwargs = dict(
        arch='small_teacher' if 'teacher' in name else 'tiny' if 'tiny' in name else 'small'
    )
    if 'mlp' in name:
        kwargs.update(clustering='mlp', num_clusters=(200, 200, 200, 0))
    model = PaCaViT(**kwargs).eval()
    model.load_state_dict(golden.state_dict(meta['shapes']), strict=True)
    batch, _, height, width = meta['input']
    with torch.no_grad():
        out = model(golden.image(batch, height, width))[0]
    expected = torch.from_numpy(answers['out0'])
    assert (out - expected).norm() / expected.norm() > 1e-3


@pytest.mark.slow
def test_official_keys_load_strictly_under_any_prefix():
    model = PaCaViT(arch=MINI_TEACHER, num_clusters=(7, 5, 3, 2))
    state = model.state_dict()
    rename_to_official(state)
    holder = torch.nn.ModuleDict({'deep': torch.nn.ModuleDict({'backbone': PaCaViT(
        arch=MINI_TEACHER, num_clusters=(7, 5, 3, 2)
    )})})  # fmt: skip
    holder.load_state_dict({f'deep.backbone.{k}': v for k, v in state.items()}, strict=True)
    for key, value in holder['deep']['backbone'].state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_another_blur_is_refused():
    state = PaCaViT(arch=MINI_TEACHER).state_dict()
    rename_to_official(state)
    state['paca_teacher.transition1.0.blur_filter'][0, 0, 1, 1] = 1
    with pytest.raises(UserError, match='binomial'):
        rename_to_ours(state)


def test_both_layouts_at_once_are_refused():
    state = PaCaViT(arch=MINI).state_dict()
    state['stage1.0.norm1_before.weight'] = state['stage1.0.norm1.weight']
    with pytest.raises(UserError, match='keys of both layouts'):
        rename_to_ours(state)
