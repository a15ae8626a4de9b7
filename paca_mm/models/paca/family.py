"""PaCa-ViT, as the machinery sees it."""

from collections.abc import Mapping
from typing import Any

from paca_mm.families import Family, Member

from .archs import resolve_arch
from .keys import LAYOUT
from .rows import CATALOGUE


def widths(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """The channels of every stage of ``PaCaViT(**backbone)``."""
    return arch(backbone)['embed_dims']


def arch(backbone: Mapping[str, Any]) -> dict[str, tuple]:
    """The sizes of every stage, as a dict that ``arch`` takes."""
    return resolve_arch(backbone.get('arch', 'small'))


FAMILY = Family(
    title='PaCa-ViT',
    members={
        'PaCaViT': Member('paca_mm.models.paca.backbone'),
        'PaCaHead': Member('paca_mm.models.paca.head', host='mmseg'),
    },
    backbone='PaCaViT',
    blocks=('paca_mm.models.paca.block.PaCaBlock',),
    toy=dict(
        arch=dict(
            embed_dims=(8, 16, 16, 24),
            num_heads=(1, 2, 2, 3),
            depths=(1, 1, 1, 1),
            mlp_ratios=(2, 2, 2, 2),
        ),
        num_clusters=(4, 4, 4, 0),
    ),
    widths=widths,
    arch=arch,
    layout=LAYOUT,
    catalogue=CATALOGUE,
    prefix='paca_',
    contestants='paca_mm.models.paca.contestants',
    deploy='paca_mm.models.paca.deploy',
)
