"""The published models of Castling-ViT that are built on DeiT."""

from paca_mm.families import Catalogue, Kind, Row

#: The arguments of ``CastlingViT`` that make a backbone. The authors publish no weights; of DeiT-S
#: there is no published result either.
ROWS: dict[str, Row] = {
    f'deit_{size}_castling': Row(
        None, dict(vit=dict(type='mmpretrain.VisionTransformer', arch=f'deit-{size}'))
    )
    for size in ('tiny', 'small', 'base')
}

KINDS = {'cls': Kind('cls', '{row}_in1k', '{name}')}


def config_name(kind: str, row: str) -> str:
    """The config of a row, from the project's root."""
    return f'configs/cls/castling/{KINDS[kind].config.format(row=row)}.py'


CATALOGUE = Catalogue(
    rows=ROWS,
    kinds=KINDS,
    config=config_name,
    weights=lambda kind, row: None,
    paper='arXiv:2211.10526',
)
