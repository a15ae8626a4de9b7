"""The two classifiers on one hidden layer, whatever the host around them."""

import torch
import torch.nn as nn
from torch import Tensor

from .conv import ConvNormAct, init_convs


class TwoHeads(nn.Module):
    """Layers and passes of a classifier with a second head that a teacher trains.

    A subclass calls :meth:`_make_layers` in its constructor. The layers are 1x1 convolutions, as the
    official ones, which is a matter of their shapes only: the map has one position.
    """

    hidden: ConvNormAct
    fc: nn.Conv2d
    fc_dist: nn.Conv2d | None

    def _make_layers(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int,
        distillation: bool,
        norm_cfg: dict | None = None,
    ) -> None:
        """Make the layers, with the published initialisation: Kaiming normal, biases 0."""
        self.hidden = ConvNormAct(in_channels, hidden_channels, norm_cfg=norm_cfg)
        self._make_heads(hidden_channels, num_classes, distillation)
        init_convs(self)

    def _make_heads(self, hidden_channels: int, num_classes: int, distillation: bool) -> None:
        self.fc = nn.Conv2d(hidden_channels, num_classes, 1)
        self.fc_dist = nn.Conv2d(hidden_channels, num_classes, 1) if distillation else None

    def _hide(self, x: Tensor) -> Tensor:
        """The pooled map, (B, C) or (B, C, 1, 1) -> the hidden layer (B, D, 1, 1)."""
        return self.hidden(x if x.ndim == 4 else x.unflatten(1, (-1, 1, 1)))

    def _mean(self, hidden: Tensor) -> Tensor:
        """The hidden layer (B, D, 1, 1) -> logits (B, classes), the mean of both heads."""
        logits = self.fc(hidden)
        if self.fc_dist is not None:
            logits = (logits + self.fc_dist(hidden)) / 2
        return logits.flatten(1)

    def _fold(self) -> None:
        """Fold the norm into the hidden layer, and both heads into the one that is their mean."""
        self.hidden.fold()
        if self.fc_dist is None:
            return
        with torch.no_grad():
            self.fc.weight.add_(self.fc_dist.weight).div_(2)
            assert self.fc.bias is not None
            assert self.fc_dist.bias is not None
            self.fc.bias.add_(self.fc_dist.bias).div_(2)
        self.fc_dist = None
