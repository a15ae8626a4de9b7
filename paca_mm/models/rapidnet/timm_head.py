"""RapidNet's two heads in timm's terms."""

from collections.abc import Sequence

import torch.nn as nn
from timm.layers import SelectAdaptivePool2d
from torch import Tensor

from .archs import head_channels
from .two_heads import TwoHeads, init_convs

#: The layers that have a row for every class.
CLASSIFIER = ('head.fc', 'head.fc_dist')


class Head(TwoHeads):
    """Pooling, the hidden layer and the mean of both heads, with the methods of timm's heads.

    Args:
        embed_dims: The channels of the backbone's stages.
        num_classes: 0 for pooling alone.
        global_pool: ``'avg'``, ``'max'``, ..., or ``''`` for none.
        drop_rate: Dropout before the heads.
    """

    def __init__(
        self, embed_dims: Sequence[int], num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.in_channels = embed_dims[-1]
        self.hidden_size = head_channels(embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, freshly initialised; the hidden layer stays if there is one."""
        if global_pool is not None:
            if not global_pool and num_classes:
                raise ValueError('a classifier needs a global_pool.')
            self.global_pool = SelectAdaptivePool2d(
                pool_type=global_pool, flatten=bool(global_pool)
            )
        self.num_classes = num_classes
        if not num_classes:
            for name in ('hidden', 'fc', 'fc_dist'):
                self.add_module(name, None)
        elif getattr(self, 'hidden', None) is None:
            self._make_layers(self.in_channels, self.hidden_size, num_classes, distillation=True)
        else:
            self._make_heads(self.hidden_size, num_classes, distillation=True)
            for layer in filter(None, (self.fc, self.fc_dist)):
                init_convs(layer)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map (B, C, H, W) -> logits, the hidden layer, or the pooled map without classes."""
        x = self.global_pool(x)
        if not self.num_classes:
            return x
        hidden = self.drop(self._hide(x))
        return hidden.flatten(1) if pre_logits else self._mean(hidden)
