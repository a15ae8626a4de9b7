"""The keys of RapidNet's checkpoints, official and ours, and what they show of the model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from paca_mm.checkpoint.layout import KeyLayout, Table, in_built_stages
from paca_mm.families import load_member

from .archs import ARCHS
from .rows import ROWS

#: Convolution and norm of each layer: (official convolution, official norm, ours).
_LAYERS = (
    ('conv.0', 'conv.1', ''),  # the downsampling
    ('dws.pw1', 'dws.norm1', 'expand.'),
    ('dws.dw', 'dws.norm2', 'dwconv.'),
    ('dws.pw2', 'dws.norm3', 'project.'),
    ('mixer.fc1.0', 'mixer.fc1.1', 'mixer.fc1.'),
    ('mixer.graph_conv.nn.0', 'mixer.graph_conv.nn.1', 'mixer.dilated2.'),
    ('mixer.graph_conv.nn_2.0', 'mixer.graph_conv.nn_2.1', 'mixer.dilated3.'),
    ('mixer.fc2.0', 'mixer.fc2.1', 'mixer.fc2.'),
    ('ffn.conv.conv', 'ffn.norm1', 'ffn.dwconv.'),
    ('ffn.fc1', 'ffn.norm2', 'ffn.fc1.'),
    ('ffn.fc2', 'ffn.norm3', 'ffn.fc2.'),
)

#: (official, ours)
BACKBONE: Table = (
    ('stem.stem.0', 'stem.halving1.conv'),
    ('stem.stem.1', 'stem.halving1.norm'),
    ('stem.stem.3', 'stem.halving2.conv'),
    ('stem.stem.4', 'stem.halving2.norm'),
    *(
        (f'backbone.{{i}}.{{j}}.{official}', f'stages.{{i}}.{{j}}.{ours}{kind}')
        for conv, norm, ours in _LAYERS
        for official, kind in ((conv, 'conv'), (norm, 'norm'))
    ),
    ('backbone.{i}.{j}.mixer.cpe.pe', 'stages.{i}.{j}.mixer.cpe.dwconv'),
    ('backbone.{i}.{j}.mixer.cpe.reparam_conv', 'stages.{i}.{j}.mixer.cpe.reparam_conv'),
    ('backbone.{i}.{j}', 'stages.{i}.{j}'),  # the layer scales
)


def table(keys: Iterable[str]) -> Table:
    """The rows, the same for every RapidNet."""
    return BACKBONE


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``RapidNet`` that a state dict, in our layout and without prefix, shows.

    ``arch`` is the name of a published size, or a dict of those that were found; ``in_channels`` is
    there if it is not 3.
    """
    kinds: dict[tuple[int, int], str] = {}
    widths: dict[int, int] = {}
    for key, value in state.items():
        if m := re.match(r'stages\.(\d+)\.(\d+)\.(expand|mixer|layer_scale_1)', key):
            stage, block = int(m[1]), int(m[2])
            if m[3] == 'layer_scale_1':
                widths[stage] = value.shape[0]
            else:
                kinds[stage, block] = m[3]
    stages = sorted(widths)

    def count(kind: str) -> tuple[int, ...]:
        return tuple(sum(s == i and k == kind for (s, _), k in kinds.items()) for i in stages)

    sizes = dict(
        embed_dims=tuple(widths[i] for i in stages),
        inverted_blocks=count('expand'),
        mldc_blocks=count('mixer'),
    )
    found: dict[str, Any] = dict(arch=next((n for n, a in ARCHS.items() if a == sizes), sizes))
    if (channels := state['stem.halving1.conv.weight'].shape[1]) != 3:
        found['in_channels'] = channels
    folded = 'stem.halving1.norm.weight' not in state
    if folded or any('.reparam_conv.' in key for key in state):
        found['deploy'] = True
    return found


def rows(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The published row that :func:`settings` has seen; none for other sizes."""
    if not isinstance(found['arch'], str) or 'in_channels' in found:
        return ()
    return (found['arch'],) if found['arch'] in ROWS else ()


def foreign(unexpected: Sequence[str], model: nn.Module) -> list[str]:
    """The keys that are not of stages that ``out_indices`` leaves out; a leftover head is no matter."""
    stem = [key for key in unexpected if key.startswith('stem.')]
    return [*stem, *in_built_stages(unexpected, model, r'stages\.(\d+)\.')]


def build(found: Mapping[str, Any]) -> nn.Module:
    """The backbone of a published row that :func:`settings` has seen."""
    return load_member('RapidNet')(**found)


LAYOUT = KeyLayout(
    title='RapidNet',
    anchor='stem.halving1.conv.weight',
    other_anchors=('stem.stem.0.weight',),
    table=table,
    settings=settings,
    build=build,
    rows=rows,
    foreign=foreign,
    first_convs=('stem.halving1.conv',),
    classifier=(
        ('prediction.1.', 'head.hidden.conv.'),
        ('prediction.2.', 'head.hidden.norm.'),
        ('head.', 'head.fc.'),
        ('dist_head.', 'head.fc_dist.'),
        ('', 'backbone.'),
    ),
    # The authors evaluate and fine-tune the averaged weights.
    prefer=('state_dict_ema',),
)
