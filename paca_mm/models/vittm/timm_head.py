"""ViTTM's two classifiers in timm's terms."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from ..common.tokens import as_image
from .two_heads import TwoHeads

#: The layers that have a row for every class.
CLASSIFIER = ('head.fc', 'head.process_fc')

#: How a classifier's backbone is built.
ARGUMENTS = dict(out_type='raw')


def features(backbone: Any, x: Tensor) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """The last memory and process tokens, and the process tokens of every block as maps (B, C, H, W)."""
    streams = backbone.streams(x, range(backbone.num_stages))
    return streams[-1], [as_image(process).contiguous() for _, process in streams]


class Head(TwoHeads):
    """Both classifiers, with the methods of timm's heads; the answer is the memory's.

    Args:
        embed_dims: The channels after each block.
        num_classes: 0 for pooling alone.
        global_pool: ``'avg'``, or ``''`` for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self, embed_dims: Sequence[int], num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.in_channels = self.hidden_size = embed_dims[-1]
        self.drop = nn.Dropout(drop_rate)
        self._make_layers(self.in_channels, 1)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, freshly initialised; the norms stay."""
        if global_pool is not None:
            if global_pool not in ('avg', ''):
                raise ValueError(f"global_pool={global_pool!r}: ViTTM knows 'avg' and ''.")
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise ValueError('a classifier needs a global_pool.')
        self.num_classes = num_classes
        if num_classes:
            self._make_classifiers(self.in_channels, num_classes)
        else:
            for name in ('fc', 'process_fc'):
                self.add_module(name, None)

    def forward(self, x: tuple[Tensor, Tensor], pre_logits: bool = False) -> Tensor:
        """Memory and process tokens (B, H, W, C) -> logits (B, classes), or what is classified (B, C).

        Without ``global_pool`` it is the memory as a map (B, C, H, W).
        """
        memory, _ = x
        if not self.global_pool:
            return as_image(memory).contiguous()
        pooled = self.drop(self._pool_memory(memory))
        return pooled if pre_logits or not self.num_classes else self.fc(pooled)
