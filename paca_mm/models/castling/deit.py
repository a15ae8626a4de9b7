"""The weights of a ViT with softmax attention for one with Castling's, with a report."""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn as nn
from torch import Tensor

from paca_mm.checkpoint.channels import adapt_channels
from paca_mm.checkpoint.finite import check_finite
from paca_mm.checkpoint.load import LoadReport, about_channels, below, compare, differences
from paca_mm.checkpoint.read import read_checkpoint, unwrap
from paca_mm.errors import UserError, some_of

#: The official names of DeiT and mmpretrain's. The final norm is called `norm`.
_OFFICIAL = (
    (r'patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
    (r'blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
    (r'blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
    (r'blocks\.(\d+)\.attn\.', r'layers.\1.attn.'),
    (r'norm\.', 'ln1.'),
)

#: What a ViT with softmax attention, or one that ends in its class token, has not.
_NEW = r'attn\.dconv\.weight$|ln2\.(weight|bias)$'


@dataclass(frozen=True)
class VitReport(LoadReport):
    """What became of every key of a ViT's checkpoint.

    Attributes:
        new: Keys of the model that a ViT with softmax attention has not; they keep their
            initialisation.
    """

    new: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [
            f'loaded {len(self.loaded)} of {len(self.loaded) + len(self.new)} tensors from '
            f'{self.source}' + (f' ({self.wrapper})' if self.wrapper else ''),
            f'taken: {_kinds(self.loaded)}',
        ]
        lines += map(str, self.adapted)
        if self.new:
            lines.append(f'new, with their fresh initialisation: {_kinds(self.new)}')
        if self.unexpected:
            lines.append(f'left: {_kinds(self.unexpected)}')
        return '\n'.join(lines)


def _kinds(keys: Iterable[str]) -> str:
    """Keys by kind: those that differ in their layer's number alone are one."""
    kinds: dict[str, int] = {}
    for key in keys:
        kind = re.sub(r'^layers\.\d+\.', 'layers.*.', key)
        kinds[kind] = kinds.get(kind, 0) + 1
    words = (f'{kind} ({number})' if number > 1 else kind for kind, number in kinds.items())
    return some_of(words, 20)


def load_vit(
    model: nn.Module, path: str | os.PathLike | None, prefix: str | None = None
) -> VitReport:
    """Load the ViT of a checkpoint into one whose attention was exchanged.

    All parameters are taken but for the kernels of the convolutions, which a ViT with softmax
    attention has not, and the norm behind averaged patches, which one with a class token has not.
    Position embeddings are resampled by the host where the grid differs; weights of RGB images are
    adapted to another number of channels (see :mod:`paca_mm.checkpoint.channels`).

    Args:
        model: What :func:`CastlingViT` returned.
        path: File or URL of a bare ViT or a classifier, with mmpretrain's names or DeiT's own, or of a
            Castling ViT.
        prefix: What stands before the backbone's keys; found out if None.

    Raises:
        UserError: The file cannot be read, holds no ViT, one of other sizes or tokens, or one whose
            weights are not finite.
    """
    if not path:
        raise UserError(
            "init_cfg=dict(type='Pretrained') needs checkpoint=<a .pth or .safetensors file, or URL>."
        )
    state, wrapper = unwrap(read_checkpoint(path), path)
    found = _find(state) if prefix is None else prefix
    if found is None or not any(key.startswith(found) for key in state):
        raise UserError(
            f'{path} holds no ViT'
            + (f' under the prefix {prefix!r}' if prefix else '')
            + ' (no key ends in patch_embed.projection.weight or patch_embed.proj.weight); its keys '
            f'are {some_of(state, 4)}.'
        )
    loose = tuple(key for key in state if not key.startswith(found))
    state = _with_our_names(below(state, found))
    own = model.state_dict()
    changed = adapt_channels(state, own)
    missing, unexpected, misfits = compare(own, state)
    new = tuple(key for key in missing if re.search(_NEW, key))
    missing = [key for key in missing if key not in new]
    misfits = [m for m in misfits if m[0] != 'pos_embed' or not _can_resample(model, m[1])]
    foreign = [key for key in unexpected if key.startswith('layers.') or key == 'dist_token']
    if missing or misfits or foreign:
        raise UserError(
            f'{path} is not for this ViT.\n{differences(missing, misfits, foreign)}\n'
            f'{about_channels(misfits)}'
            "Give vit=dict(...) the file's arch; a file with a dist_token is that of a "
            "type='DistilledVisionTransformer'."
        )
    kept = OrderedDict((key, value) for key, value in state.items() if key not in unexpected)
    vars(kept)['_metadata'] = getattr(state, '_metadata', None)
    check_finite(kept, path)
    loaded = tuple(kept)  # the host's loading may change it
    model.load_state_dict(kept, strict=False)
    return VitReport(
        source=os.fspath(path),
        loaded=loaded,
        reset=(),
        unexpected=(*unexpected, *loose),
        wrapper=wrapper,
        adapted=changed,
        new=new,
    )


def _find(state: Mapping[str, Tensor]) -> str | None:
    """What stands before the keys of the ViT in a checkpoint."""
    found = [
        m[1] for k in state if (m := re.match(r'(.*?)patch_embed\.proj(?:ection)?\.weight$', k))
    ]
    return min(found, key=len) if found else None


def _with_our_names(state: 'OrderedDict[str, Tensor]') -> 'OrderedDict[str, Tensor]':
    """DeiT's own names as mmpretrain's; a state dict that has these already stays."""
    if not any(key.startswith('blocks.') for key in state):
        return state
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        for official, ours in _OFFICIAL:
            if re.match(official, key):
                key = re.sub(f'^{official}', ours, key)
                break
        renamed[key] = value
    return renamed


def _can_resample(model: Any, shape: tuple) -> bool:
    """Whether the host can bring position embeddings (1, N, C) of a square grid to its own grid."""
    own = model.pos_embed.shape
    if len(shape) != 3 or shape[2] != own[2]:
        return False
    if not model.with_cls_token and shape[1] == own[1] + 1:  # the host leaves that token out
        return True
    patches = shape[1] - model.num_extra_tokens
    return patches > 0 and math.isqrt(patches) ** 2 == patches
