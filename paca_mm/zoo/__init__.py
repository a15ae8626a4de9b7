"""The published models: what each row is made of, where its files are, and its name in mmpretrain.

>>> from paca_mm import zoo
>>> zoo.register()
>>> from mmpretrain import get_model, list_models
>>> list_models('paca_*c49*')
['paca_small_c49_100_in1k', 'paca_small_c49_in1k']
>>> model = get_model('paca_tiny_in1k')  # pretrained=True fetches the official weights
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Where the authors of PaCa-ViT publish their weights.
RELEASE = 'https://github.com/iVMCL/PaCaViT/releases/download/pacavit'

#: Clusters of every clustering stage on ADE20k, whatever the row had on ImageNet.
ADE_CLUSTERS = 200


@dataclass(frozen=True)
class Row:
    """A published backbone.

    Attributes:
        official: What the official repository calls it; None where it published no weights.
        backbone: The arguments of ``paca_mm.PaCaViT`` that make it.
        official_downstream: Its official name in detection and segmentation, where that differs.
    """

    official: str | None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    official_downstream: str | None = None


#: The rows of the paper's tables.
ROWS: dict[str, Row] = {
    'tiny': Row('pacavit_tiny_p2cconv_100_0', dict(arch='tiny')),
    'small': Row('pacavit_small_p2cconv_100_0', dict(arch='small')),
    'base': Row('pacavit_base_p2cconv_100_0', dict(arch='base')),
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

#: The models around the backbones: task, how their configs and how their official files are called.
MODELS = {
    'cls': ('cls', 'paca_{row}_in1k', 'IMNET_224_{name}'),
    'mask_rcnn': ('det', 'mask_rcnn_paca_{row}', 'mask_rcnn_{name}_mstrain_480_800_1x_coco'),
    'upernet': ('seg', 'upernet_paca_{row}_ade20k', 'upernet_{name}_512x512_160k_ade20k'),
    'paca_head': ('seg', 'paca_head_paca_{row}_ade20k', 'pacahead_{name}_512x512_160k_ade20k'),
}


def config_name(model: str, row: str) -> str:
    """The config of a row, from the project's root: ``'configs/cls/paca_tiny_in1k.py'``."""
    task, config, _ = MODELS[model]
    name = 'mask_rcnn_paca' if (model, row) == ('mask_rcnn', 'small') else config.format(row=row)
    return f'configs/{task}/{name}.py'


def weights_url(model: str, row: str) -> str | None:
    """The official weights of a row, or None where none were published."""
    entry = ROWS[row]
    name = entry.official if model == 'cls' else entry.official_downstream or entry.official
    return f'{RELEASE}/{MODELS[model][2].format(name=name)}.pth' if name else None


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


def register() -> None:
    """Make mmpretrain's ``get_model`` and ``list_models`` know the classifiers of this package.

    Calling it again does nothing.
    """
    from mmpretrain.apis import ModelHub

    from paca_mm.paths import assets_root

    root = assets_root()
    if not ModelHub.has('paca_small_in1k'):
        ModelHub.register_model_index(root / 'configs/cls/metafile.yml', config_prefix=root)
