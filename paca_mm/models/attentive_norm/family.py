"""Attentive Normalization, as the machinery sees it."""

from paca_mm.families import Family, Member

FAMILY = Family(
    title='Attentive Normalization',
    members={
        'AttnBN': Member('paca_mm.models.attentive_norm.norms'),
        'AttnSyncBN': Member('paca_mm.models.attentive_norm.norms'),
        'AttnGN': Member('paca_mm.models.attentive_norm.norms'),
    },
)
