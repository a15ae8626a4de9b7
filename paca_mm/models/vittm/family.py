"""ViTTM, as the machinery sees it."""

from collections.abc import Mapping
from typing import Any

from paca_mm.families import Family, Member

from .archs import resolve_arch
from .keys import LAYOUT
from .rows import CATALOGUE


def widths(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """The channels of every block's map of ``ViTTM(**backbone)``."""
    sizes = resolve_arch(backbone.get('arch', 'base'))
    streams = 2 if backbone.get('out_type') == 'both' else 1
    return (streams * sizes['embed_dims'],) * sizes['num_layers']


FAMILY = Family(
    title='ViTTM',
    members={
        'ViTTM': Member('paca_mm.models.vittm.backbone'),
        'ViTTMClsHead': Member('paca_mm.models.vittm.cls_head', host='mmpretrain'),
        'ViTTMAccuracy': Member('paca_mm.models.vittm.accuracy', host='mmpretrain'),
    },
    backbone='ViTTM',
    blocks=('paca_mm.models.vittm.block.ViTTMBlock',),
    toy=dict(
        arch=dict(embed_dims=24, num_layers=3, num_heads=2),
        img_size=64,
        memory_patch=8,
        process_patch=16,
        out_indices=(0, 1, 2),
        pad_to_patch=True,
    ),
    widths=widths,
    as_maps=dict(out_type='process'),
    layout=LAYOUT,
    catalogue=CATALOGUE,
    prefix='vittm_',
    contestants='paca_mm.models.vittm.contestants',
    timm_head='paca_mm.models.vittm.timm_head',
    deploy='paca_mm.models.vittm.deploy',
)
