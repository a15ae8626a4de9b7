"""The published models of PaCa-ViT: what each row is made of, and where its files are."""

from collections.abc import Sequence

from paca_mm.families import Catalogue, Kind, Row

#: Where the authors of PaCa-ViT publish their weights.
RELEASE = 'https://github.com/iVMCL/PaCaViT/releases/download/pacavit'

#: Clusters of every clustering stage on ADE20k, whatever the row had on ImageNet.
ADE_CLUSTERS = 200

#: The rows of the paper's tables.
ROWS: dict[str, Row] = {
    'tiny': Row('pacavit_tiny_p2cconv_100_0', dict(arch='tiny')),
    'small': Row('pacavit_small_p2cconv_100_0', dict(arch='small')),
    'base': Row('pacavit_base_p2cconv_100_0', dict(arch='base'), recipe=dict(drop_path_rate=0.5)),
    'small_mlp': Row('pacavit_small_p2cmlp_100_0', dict(arch='small', clustering='mlp')),
    'tiny_teacher': Row(None, dict(arch='tiny_teacher')),
    'small_teacher': Row(
        'pacavit_convmixer_small_100',
        dict(arch='small_teacher'),
        'pacavit_convmixer_small_100_0',
    ),
    'base_teacher': Row(
        'pacavit_convmixer_base_100',
        dict(arch='base_teacher'),
        'pacavit_convmixer_base_100_0',
    ),
    'small_c2': Row('pacavit_small_p2cconv_2_0', dict(arch='small', num_clusters=(2, 2, 2, 0))),
    'small_c49': Row(
        'pacavit_small_p2cconv_49_0', dict(arch='small', num_clusters=(49, 49, 49, 0))
    ),
    'small_c49_100': Row(
        'pacavit_small_p2cconv_49_100', dict(arch='small', num_clusters=(49, 64, 81, 100))
    ),
    'small_c100_49': Row(
        'pacavit_small_p2cconv_100_49', dict(arch='small', num_clusters=(100, 81, 64, 49))
    ),
    'small_c100': Row(
        'pacavit_small_p2cconv_100', dict(arch='small', num_clusters=(100, 100, 100, 100))
    ),
    'small_c100_blockwise': Row(
        'pacavit_small_p2cconv_100_blockwise',
        dict(arch='small', num_clusters=(100, 100, 100, 100), cluster_every=1),
    ),
}

#: The models around the backbones.
KINDS = {
    'cls': Kind('cls', 'paca_{row}_in1k', 'IMNET_224_{name}'),
    'mask_rcnn': Kind('det', 'mask_rcnn_paca_{row}', 'mask_rcnn_{name}_mstrain_480_800_1x_coco'),
    'upernet': Kind('seg', 'upernet_paca_{row}_ade20k', 'upernet_{name}_512x512_160k_ade20k'),
    'paca_head': Kind('seg', 'paca_head_paca_{row}_ade20k', 'pacahead_{name}_512x512_160k_ade20k'),
}


def config_name(kind: str, row: str) -> str:
    """The config of a row, from the project's root: ``'configs/cls/paca_tiny_in1k.py'``."""
    task, config, _ = KINDS[kind]
    name = 'mask_rcnn_paca' if (kind, row) == ('mask_rcnn', 'small') else config.format(row=row)
    return f'configs/{task}/{name}.py'


def weights_url(kind: str, row: str) -> str | None:
    """The official weights of a row, or None where none were published."""
    entry = ROWS[row]
    name = entry.official if kind == 'cls' else entry.official_downstream or entry.official
    return f'{RELEASE}/{KINDS[kind].official.format(name=name)}.pth' if name else None


def rows_like(
    arch: str, clustering: str, num_clusters: Sequence[int], blockwise: bool
) -> tuple[str, ...]:
    """The published rows that a backbone may be, going by what its weights show.

    On ADE20k all rows have 200 clusters, so several rows look the same there.
    """
    return tuple(
        name
        for name, row in ROWS.items()
        if (row.backbone['arch'], row.backbone.get('clustering', 'conv')) == (arch, clustering)
        and bool(row.backbone.get('cluster_every')) == blockwise
        and tuple(num_clusters) in _clusters_of(row)
    )


def _clusters_of(row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Clusters per stage on ImageNet and COCO, and on ADE20k."""
    last = 100 if row.backbone['arch'].endswith('teacher') else 0
    clusters = tuple(row.backbone.get('num_clusters', (100, 100, 100, last)))
    return clusters, tuple(ADE_CLUSTERS if m else 0 for m in clusters)


CATALOGUE = Catalogue(
    rows=ROWS,
    kinds=KINDS,
    config=config_name,
    weights=weights_url,
    published={'upernet': ('tiny', 'small', 'base')},
    license='mit',
    paper='arXiv:2203.11987',
)
