"""The entries of Castling-ViT in the benchmark: its rows without the softmax branch, and with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmengine.registry import MODELS

from paca_mm.errors import UserError
from paca_mm.families import load_member

VARIANTS = {
    'masked': 'with the softmax branch of training (Castling-ViT only)',
    'softmax': "the host's ViT with its own attention (Castling-ViT only)",
}
OTHERS = {'softmax'}

#: The ViT of the same width and depth.
CLASSES = {'deit_small_castling': ('vit_s',), 'deit_base_castling': ('vit_b',)}


def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
    """A backbone that returns its last map.

    Raises:
        UserError: A variant is not of this family, or two do not go together.
    """
    if unknown := [v for v in variants if v not in VARIANTS]:
        raise UserError(
            f'Castling-ViT has no variant {unknown[0]!r}; it knows {", ".join(VARIANTS)}.'
        )
    if {*VARIANTS} <= {*variants}:
        raise UserError('+masked and +softmax do not go together: the host has no such branch.')
    castling = load_member('CastlingViT')  # which imports the host's models
    vit = {**arguments['vit'], 'out_type': 'featmap'}
    made: Any
    if 'softmax' in variants:
        made = MODELS.build(vit)
    else:
        made = castling(vit=vit, softmax_branch='masked' in variants)
    made.num_features = (made.embed_dims,)
    return made
