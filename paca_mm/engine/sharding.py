"""How a model is cut into pieces where its parameters are spread over the processes (FSDP)."""

from collections.abc import Sequence
from functools import cache

import torch.nn as nn

from paca_mm.families import families
from paca_mm.registry import FUNCTIONS


@FUNCTIONS.register_module()
def wrap_blocks(
    module: nn.Module, recurse: bool, nonwrapped_numel: int, also: Sequence[str] = ()
) -> bool:
    """The wrap policy that keeps every block of our families in one piece.

    ``auto_wrap_policy='paca_mm.wrap_blocks'``; the rest of a model is one piece more.

    Args:
        module: A part of the model.
        recurse: Whether the parts of ``module`` are asked for next, which they always are.
        nonwrapped_numel: The parameters of it that are in no piece yet.
        also: Other classes that are one piece each, ``'mmdet.models.roi_heads.bbox_heads.
            convfc_bbox_head.Shared2FCBBoxHead'`` say.
    """
    if recurse:
        return True
    kinds = {f'{kind.__module__}.{kind.__qualname__}' for kind in type(module).__mro__}
    return not kinds.isdisjoint({*_blocks(), *also})


@cache
def _blocks() -> frozenset[str]:
    return frozenset(block for family in families().values() for block in family.blocks)
