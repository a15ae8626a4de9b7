"""The keys of PaCa-ViT's checkpoints, official and ours, and what they show of the model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from paca_mm.checkpoint.layout import Constant, KeyLayout, Table, in_built_stages
from paca_mm.families import load_member

from .archs import ARCHS
from .rows import rows_like
from .teacher import binomial_blur

#: (official, ours)
BACKBONE: Table = (
    ('stage{i}.{j}.norm1_before', 'stage{i}.{j}.norm1'),
    ('stage{i}.{j}.norm2_before', 'stage{i}.{j}.norm2'),
    ('stage{i}.{j}.mlp.dwconv.dwconv', 'stage{i}.{j}.mlp.dwconv'),
    ('paca_teacher.block{i}.{j}.0.fn.0', 'teacher.stage{i}.{j}.dwconv'),
    ('paca_teacher.block{i}.{j}.0.fn.2', 'teacher.stage{i}.{j}.norm1'),
    ('paca_teacher.block{i}.{j}.1', 'teacher.stage{i}.{j}.pwconv'),
    ('paca_teacher.block{i}.{j}.3', 'teacher.stage{i}.{j}.norm2'),
    ('paca_teacher.transition{i}.0.conv', 'teacher.transition{i}.conv'),
    ('paca_teacher.transition{i}.2', 'teacher.transition{i}.norm'),
    ('paca_teacher.lateral{i}.0', 'teacher.lateral{i}.conv'),
    ('paca_teacher.lateral{i}.2', 'teacher.lateral{i}.norm'),
    ('paca_teacher.fpn{i}.0.fn.0', 'teacher.fpn{i}.dwconv'),
    ('paca_teacher.fpn{i}.0.fn.2', 'teacher.fpn{i}.norm1'),
    ('paca_teacher.fpn{i}.1', 'teacher.fpn{i}.pwconv'),
    ('paca_teacher.fpn{i}.3', 'teacher.fpn{i}.norm2'),
    ('paca_teacher.to_clusters{i}', 'teacher.to_clusters{i}'),
)

#: Layers of the official clustering networks are numbered, and a number means different layers in
#: different networks: the layers, in official order, by what ``clustering=`` calls the network.
CLUSTERING = {
    'conv': ((0, 'dwconv'), (2, 'pwconv'), (4, 'to_clusters')),
    'mlp': ((0, 'fc'), (2, 'to_clusters')),
    'linear': ((0, 'to_clusters'),),
}


def clustering_of(keys: Iterable[str]) -> str:
    """Which clustering network a backbone's keys, of either layout, belong to."""
    tails = {key.rpartition('.attn.clustering.')[2] for key in keys}
    if tails & {'clustering.4.weight', 'pwconv.weight'}:
        return 'conv'
    return 'mlp' if tails & {'clustering.2.weight', 'fc.weight'} else 'linear'


def table(keys: Iterable[str]) -> Table:
    """The rows for a backbone with these keys: those of its clustering network among them."""
    block = 'stage{i}.{j}.attn.clustering'
    layers = CLUSTERING[clustering_of(keys)]
    return [*BACKBONE, *((f'{block}.clustering.{n}', f'{block}.{name}') for n, name in layers)]


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``PaCaViT`` that a state dict, in our layout and without prefix, shows.

    ``arch`` is the name of a published size, or a dict with the widths and depths that were found
    (weights do not show the number of heads). ``cluster_every`` is 1 if any stage clusters again
    after its first block; ``in_channels`` is there if it is not 3.
    """
    blocks = {
        tuple(map(int, m.groups())) for k in state if (m := re.match(r'stage(\d+)\.(\d+)\.', k))
    }
    depths = tuple(sum(i == stage for i, _ in blocks) for stage in sorted({i for i, _ in blocks}))
    widths = tuple(
        state[f'norm{i + 1}.weight'].shape[0]
        for i in range(len(depths))
        if f'norm{i + 1}.weight' in state
    )
    teacher = any(k.startswith('teacher.') for k in state)
    arch: Any = next(
        (
            name
            for name, arch in ARCHS.items()
            if (arch['depths'], arch['embed_dims'], 'teacher_depths' in arch)
            == (depths, widths, teacher)
        ),
        dict(depths=depths, embed_dims=widths),
    )
    clusters: list[int] = []
    for i in range(1, len(depths) + 1):
        keys = (f'stage{i}.0.attn.clustering.to_clusters.weight', f'teacher.to_clusters{i}.weight')
        clusters.append(next((state[k].shape[0] for k in keys if k in state), 0))
    found = dict(arch=arch)
    if not teacher:
        found['clustering'] = clustering_of(state)
    found['num_clusters'] = tuple(clusters)
    if not teacher and any(
        re.match(r'stage\d+\.[1-9]\d*\.attn\.clustering\.to_clusters\.weight$', k) for k in state
    ):
        found['cluster_every'] = 1
    if (channels := state['patch_embed.proj.0.weight'].shape[1]) != 3:
        found['in_channels'] = channels
    if any('.attn.inner.dconv.' in k for k in state):
        found['plain_attention'] = 'castling'
    return found


def rows(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The published rows that :func:`settings` may have seen; none for other sizes."""
    if not isinstance(found['arch'], str) or {'plain_attention', 'in_channels'} & found.keys():
        return ()
    return rows_like(
        found['arch'],
        found.get('clustering', 'conv'),
        found['num_clusters'],
        bool(found.get('cluster_every')),
    )


def describe(found: Mapping[str, Any]) -> str:
    """What :func:`settings` has seen, in a few words."""
    words = [f'{key}={value!r}' for key, value in found.items() if key != 'cluster_every']
    if found.get('cluster_every'):
        words.append('clustering again within a stage (cluster_every)')
    return ', '.join(words)


def foreign(unexpected: Sequence[str], model: nn.Module) -> list[str]:
    """The keys that are not of stages that ``out_indices`` leaves out; a leftover head is no matter."""
    found = in_built_stages(unexpected, model, r'(?:stage|norm)(\d+)\.', first=1)
    if getattr(model, 'teacher', None) is None:
        found += [key for key in unexpected if key.startswith('teacher.')]
    return found


def build(found: Mapping[str, Any]) -> nn.Module:
    """The backbone of a published row that :func:`settings` has seen."""
    return load_member('PaCaViT')(**found)


LAYOUT = KeyLayout(
    title='PaCa',
    anchor='patch_embed.proj.0.weight',
    table=table,
    settings=settings,
    build=build,
    rows=rows,
    describe=describe,
    foreign=foreign,
    constants=(
        Constant(
            'paca_teacher.transition{i}.0.blur_filter',
            beside='paca_teacher.transition{i}.0.conv.weight',
            value=lambda weight: binomial_blur(weight.shape[1]),
            what='the binomial kernel / 16 that PaCa-ViT blurs with',
        ),
    ),
    restart='to_clusters',
    first_convs=('patch_embed.proj.0',),
)
