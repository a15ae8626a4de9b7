"""PaCa's entries in the benchmark: variants of its rows, and its head alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.families import load_member

from .backbone import PaCaViT
from .block import PaCaBlock
from .plain import PlainPaCaViT, plain_head

VARIANTS = {
    'plain': 'the plain reading (ours only)',
    'blocks': 'torch.compile of each block (our rows only)',
    'stages123': 'stages 1 to 3 alone, the part whose cost grows linearly (our rows only)',
    'castling': "Castling's linear attention in stages without clusters (PaCa-ViT only)",
}
OTHERS = {'stages123', 'castling'}

#: Peers of about the same accuracy.
CLASSES = {
    'paca_tiny': ('swin_t', 'convnext_t', 'pvtv2_b2'),
    'paca_small': ('swin_s', 'convnext_s', 'pvtv2_b3'),
}


def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
    """A backbone that returns its last map.

    Raises:
        UserError: The variants do not go together.
    """
    _check(variants)
    cls = PlainPaCaViT if 'plain' in variants else PaCaViT
    last = 2 if 'stages123' in variants else 3
    return cls(
        **arguments,
        drop_path_rate=0.0,
        out_indices=(last,),
        with_cp='cp' in variants,
        plain_attention='castling' if 'castling' in variants else 'softmax',
    )


def compile_blocks(model: nn.Module) -> None:
    """Compile each block by itself, in place."""
    for module in model.modules():
        if isinstance(module, PaCaBlock):
            module.forward = torch.compile(module.forward, fullgraph=True, dynamic=False)  # type: ignore[method-assign]


class HeadAlone(nn.Module):
    """The head of ADE20k; feature maps in, logits and cluster scores out."""

    def __init__(self, variants: Sequence[str]) -> None:
        super().__init__()
        if no := {'blocks', 'stages123', 'castling'} & set(variants):
            raise UserError(f'the head has no blocks and no stages; leave out +{no.pop()}.')
        _check(variants)
        try:
            cls = load_member('PaCaHead')
        except ImportError as e:
            raise UserError('the head needs mmseg, which is not installed: make setup.') from e
        head = cls(
            [96, 192, 320, 384],
            num_classes=150,
            dropout_ratio=0.1,
            with_cp='cp' in variants,
            loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
        )
        self.head: Any = plain_head(head) if 'plain' in variants else head
        self.in_channels = head.in_channels

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor] | Tensor:
        return self.head._forward(maps) if self.training else self.head(maps)


EXTRAS = {'head': HeadAlone}


def _check(variants: Sequence[str]) -> None:
    if 'plain' in variants and (no := {'blocks', 'cp', 'castling'} & set(variants)):
        raise UserError(f'the plain reading comes without +{no.pop()}; leave it out.')
    if {'stages123', 'castling'} <= {*variants}:
        raise UserError('stages 1 to 3 have clusters, so +castling would do nothing; leave it out.')
