"""RapidNet, as the machinery sees it."""

from collections.abc import Mapping
from typing import Any

from paca_mm.families import Family, Member

from .archs import resolve_arch
from .keys import LAYOUT
from .rows import CATALOGUE


def widths(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """The channels of every stage of ``RapidNet(**backbone)``."""
    return arch(backbone)['embed_dims']


def arch(backbone: Mapping[str, Any]) -> dict[str, tuple]:
    """The sizes of every stage, as a dict that ``arch`` takes."""
    return resolve_arch(backbone.get('arch', 'ti'))


FAMILY = Family(
    title='RapidNet',
    members={
        'RapidNet': Member('paca_mm.models.rapidnet.backbone'),
        'RapidNetClsHead': Member('paca_mm.models.rapidnet.cls_head', host='mmpretrain'),
        'DistilledClassifier': Member('paca_mm.models.rapidnet.distill', host='mmpretrain'),
    },
    backbone='RapidNet',
    blocks=(
        'paca_mm.models.rapidnet.inverted.InvertedResidual',
        'paca_mm.models.rapidnet.mldc.MLDCBlock',
    ),
    toy=dict(
        arch=dict(
            embed_dims=(8, 12, 16, 24),
            inverted_blocks=(1, 1, 1, 1),
            mldc_blocks=(0, 0, 1, 1),
        ),
    ),
    widths=widths,
    arch=arch,
    layout=LAYOUT,
    catalogue=CATALOGUE,
    prefix='rapidnet_',
    contestants='paca_mm.models.rapidnet.contestants',
    timm_head='paca_mm.models.rapidnet.timm_head',
    deploy='paca_mm.models.rapidnet.deploy',
)
