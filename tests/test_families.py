"""The machinery asks the families: one more needs no edit, and none is named."""

import re

import pytest
import torch

from paca_mm import families
from paca_mm.analysis.speed import contestants
from paca_mm.families import Catalogue, Family, Kind, Member, Row
from paca_mm.paths import assets_root


def test_a_family_is_its_folder():
    folder = assets_root() / 'paca_mm' / 'models'
    if not folder.is_dir():
        pytest.skip('not a checkout')
    assert set(families.families()) == {file.parent.name for file in folder.glob('*/family.py')}


def test_names_lead_to_their_family():
    family, member = families.member_named('PaCaHead')
    assert (family.title, member.host) == ('PaCa-ViT', 'mmseg')
    assert families.member_named('PaCaVit') is None
    assert families.family_of('paca_mm.PaCaViT') is family
    assert families.family_of('paca_mm.PaCaHead') is None  # no backbone
    assert families.family_of('PaCaViT') is None  # somebody else's
    assert families.row_named('paca_small_c49') == (family, 'small_c49')
    assert families.row_named('small') is None


def test_every_member_is_where_its_family_says():
    for family in families.families().values():
        for name, member in family.members.items():
            if member.host:
                pytest.importorskip(member.host)
            assert families.load_member(name).__name__ == name
        assert family.backbone is None or family.backbone in family.members


@pytest.mark.parametrize(
    'part',
    ['checkpoint', 'zoo/metafiles.py', 'analysis', 'engine', 'registry.py', 'environment.py'],
)
def test_the_machinery_names_no_model(part):
    """But for the configs without download and the benchmark's own goals, which are examples."""
    root = assets_root() / 'paca_mm' / part
    for file in [root] if root.is_file() else root.rglob('*.py'):
        text = file.read_text()
        code = re.sub(r'"""(?:.|\n)*?"""|#.*', '', text)
        found = re.findall(r'PaCaViT|PaCaBlock|PaCaHead|models\.paca|models import', code)
        assert not found, f'{file}: {found}'


@pytest.fixture
def another(monkeypatch):
    """A family of somebody else's, known to nobody but by its record."""
    catalogue = Catalogue(
        rows={'s': Row(None, dict(arch='tiny'))},
        kinds={'cls': Kind('cls', 'other_{row}', '{name}')},
        config=lambda kind, row: f'configs/cls/other/other_{row}.py',
        weights=lambda kind, row: None,
    )
    family = Family(
        title='Another',
        members={'AnotherNet': Member('paca_mm.models.paca.backbone')},
        backbone='AnotherNet',
        catalogue=catalogue,
        prefix='other_',
    )
    known = {**families.families(), 'other': family}
    for module in (families, contestants):
        monkeypatch.setattr(module, 'families', lambda: known)
    return family


def test_the_rows_of_another_family_are_contestants(another, monkeypatch):
    from paca_mm.models import PaCaViT

    monkeypatch.setattr(contestants, 'load_member', lambda name: PaCaViT)
    assert families.row_named('other_s') == (another, 's')
    assert 'other_s' in contestants.known()
    setting = contestants.Setting(batch=1, height=32, width=32)
    made = contestants.make('other_s+cp', setting)
    assert made.facts.params == 12_200_680
    assert made.run().shape == torch.Size([1, 1000])
