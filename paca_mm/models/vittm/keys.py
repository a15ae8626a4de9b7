"""The keys of ViTTM's checkpoints, official and ours, and what they show of the model.

The official model is timm's ViT with more around it, and keeps parts of it that it never uses: the class
token and the positions of a ViT, its patch embedding (unless the memory's patches have its size: then
they are one layer under two names), and in every read and write head an output projection. They are
constants of the official layout here: dropped on the way to ours, zeros on the way back.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.checkpoint.layout import Constant, KeyLayout, Table, in_built_stages
from paca_mm.families import load_member

from .archs import ARCHS
from .rows import ROWS

#: Side of a patch of the ViT that the official model derives from.
VIT_PATCH = 16

#: (official, ours)
BACKBONE: Table = (
    ('memory_pos_embed', 'memory_embed.pos_embed'),
    ('process_pos_embed', 'process_embed.pos_embed'),
    ('memory_embedder.proj', 'memory_embed.proj'),
    ('process_embedder.proj', 'process_embed.proj'),
    ('read_norm.{i}', 'blocks.{i}.read_norm'),
    ('write_norm.{i}', 'blocks.{i}.write_norm'),
    *(
        (f'{head}_head.{{i}}.{layer}', f'blocks.{{i}}.{head}.{layer}')
        for head in ('read', 'write')
        for layer in 'qkv'
    ),
)


def _unused_patches(weight: Tensor) -> Tensor:
    """The kernel of the official ViT's patch embedding, from that of the memory's."""
    channels, inputs, patch, _ = weight.shape
    if patch == VIT_PATCH:
        return weight.clone()
    return weight.new_zeros(channels, inputs, VIT_PATCH, VIT_PATCH)


CONSTANTS = (
    *(
        Constant(
            f'{head}_head.{{i}}.proj.{kind}',
            beside=f'{head}_head.{{i}}.v.{kind}',
            value=torch.zeros_like,
        )
        for head in ('read', 'write')
        for kind in ('weight', 'bias')
    ),
    Constant('patch_embed.proj.weight', 'memory_embedder.proj.weight', _unused_patches),
    Constant('patch_embed.proj.bias', 'memory_embedder.proj.bias', torch.clone),
    Constant('cls_token', 'memory_pos_embed', lambda positions: torch.zeros_like(positions[:, :1])),
)


class ViTTMLayout(KeyLayout):
    """A layout with one constant more, whose size two parameters tell: the positions of the ViT."""

    def to_ours(
        self, state: MutableMapping[str, Any], prefix: str = '', bare: bool = False
    ) -> None:
        super().to_ours(state, prefix, bare)
        below = self.find(key for key in state if key.startswith(prefix))
        if below is not None:
            state.pop(f'{below}pos_embed', None)

    def to_official(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        super().to_official(state, prefix)
        positions = state.get(f'{prefix}memory_pos_embed')
        weight = state.get(f'{prefix}memory_embedder.proj.weight')
        if isinstance(positions, Tensor) and isinstance(weight, Tensor):
            side = isqrt(positions.shape[1]) * weight.shape[-1] // VIT_PATCH
            state[f'{prefix}pos_embed'] = positions.new_zeros(1, side**2 + 1, positions.shape[2])


def table(keys: Iterable[str]) -> Table:
    """The rows, the same for every ViTTM."""
    return BACKBONE


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``ViTTM`` that a state dict, in our layout and without prefix, shows.

    ``arch`` is the name of a published size, or a dict with the width and depth that were found
    (weights do not show the number of heads). ``img_size`` is there if it is not 224, ``in_channels``
    if it is not 3, ``out_type`` if the last block writes nothing.
    """
    memory = state['memory_embed.proj.weight']
    process = state.get('process_embed.proj.weight', memory)
    blocks = {int(m[1]) for key in state if (m := re.match(r'blocks\.(\d+)\.', key))}
    sizes = dict(embed_dims=memory.shape[0], num_layers=len(blocks))
    found: dict[str, Any] = dict(
        arch=next((name for name, arch in ARCHS.items() if sizes.items() <= arch.items()), sizes),
        memory_patch=memory.shape[-1],
        process_patch=process.shape[-1],
    )
    if memory.shape[1] != 3:
        found['in_channels'] = memory.shape[1]
    positions = state.get('memory_embed.pos_embed')
    if positions is not None:
        side = isqrt(positions.shape[1]) * memory.shape[-1]
        if side != 224:
            found['img_size'] = side
    if blocks and f'blocks.{max(blocks)}.write.q.weight' not in state:
        found['out_type'] = 'process'
    return found


def rows(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The published row that :func:`settings` has seen; none for other sizes."""
    if 'in_channels' in found:
        return ()
    shown = {key: found[key] for key in ('arch', 'memory_patch', 'process_patch')}
    return tuple(name for name, row in ROWS.items() if row.backbone == shown)


def foreign(unexpected: Sequence[str], model: nn.Module) -> list[str]:
    """The keys that are not of blocks that ``out_indices`` leaves out; a leftover head is no matter."""
    embeds = [key for key in unexpected if key.startswith(('memory_embed.', 'process_embed.'))]
    return [*embeds, *in_built_stages(unexpected, model, r'blocks\.(\d+)\.')]


def build(found: Mapping[str, Any]) -> nn.Module:
    """The backbone of a published row that :func:`settings` has seen."""
    return load_member('ViTTM')(**{'out_type': 'raw', **found})


LAYOUT = ViTTMLayout(
    title='ViTTM',
    anchor='memory_embed.proj.weight',
    other_anchors=('memory_embedder.proj.weight',),
    table=table,
    settings=settings,
    build=build,
    rows=rows,
    foreign=foreign,
    constants=CONSTANTS,
    first_convs=('memory_embed.proj', 'process_embed.proj'),
    classifier=(
        ('head.', 'head.fc.'),
        ('fc_norm.', 'head.fc_norm.'),
        ('process_head.', 'head.process_fc.'),
        ('fc_norm_process.', 'head.process_fc_norm.'),
        ('process_norm.', 'head.process_norm.'),
        ('', 'backbone.'),
    ),
)
