"""Castling-ViT, as the machinery sees it."""

from paca_mm.families import Family, Member

from .rows import CATALOGUE

FAMILY = Family(
    title='Castling-ViT',
    members={
        'CastlingAttention': Member('paca_mm.models.castling.attention'),
        'CastlingViT': Member('paca_mm.models.castling.vit', host='mmpretrain'),
        'CastlingHook': Member('paca_mm.models.castling.hook'),
    },
    blocks=('mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer',),
    catalogue=CATALOGUE,
    contestants='paca_mm.models.castling.contestants',
    deploy='paca_mm.models.castling.deploy',
)
