"""The published models of RapidNet: what each row is made of, and where its files are."""

from paca_mm.families import Catalogue, Kind, Row

#: Where the authors of RapidNet publish their weights; the names of the files are not known to us.
RELEASE = 'https://huggingface.co/SLDGroup/RapidNet'

#: The rows of the paper.
ROWS: dict[str, Row] = {
    name: Row(f'rapidnet_{name}', dict(arch=name)) for name in ('ti', 's', 'm', 'b')
}

#: The models around the backbones.
KINDS = {
    'cls': Kind('cls', 'rapidnet_{row}_in1k', '{name}'),
    'mask_rcnn': Kind('det', 'mask_rcnn_rapidnet_{row}', 'mask_rcnn_{name}'),
    'fpn': Kind('seg', 'fpn_rapidnet_{row}_ade20k', 'fpn_{name}'),
}


def config_name(kind: str, row: str) -> str:
    """The config of a row, from the project's root: ``'configs/cls/rapidnet/rapidnet_ti_in1k.py'``."""
    task, config, _ = KINDS[kind]
    return f'configs/{task}/rapidnet/{config.format(row=row)}.py'


def weights_url(kind: str, row: str) -> str | None:
    """None: the addresses of single files in :data:`RELEASE` are not known to us."""
    return None


CATALOGUE = Catalogue(
    rows=ROWS,
    kinds=KINDS,
    config=config_name,
    weights=weights_url,
    published={'mask_rcnn': ('m', 'b'), 'fpn': ('m', 'b')},
    license='mit',
    paper='arXiv:2412.10995',
)
