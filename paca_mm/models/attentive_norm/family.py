"""Attentive Normalization, as the machinery sees it."""

from paca_mm.families import Family, Member

from .keys import LAYOUT
from .rows import CATALOGUE

FAMILY = Family(
    title='Attentive Normalization',
    members={
        'AttnBN': Member('paca_mm.models.attentive_norm.norms'),
        'AttnSyncBN': Member('paca_mm.models.attentive_norm.norms'),
        'AttnGN': Member('paca_mm.models.attentive_norm.norms'),
        'ReplaceNorms': Member('paca_mm.models.attentive_norm.replace'),
    },
    layout=LAYOUT,
    catalogue=CATALOGUE,
    contestants='paca_mm.models.attentive_norm.contestants',
)
