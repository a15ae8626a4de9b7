"""The two classifiers, of the memory and of the process tokens, whatever the host around them."""

import torch.nn as nn
from torch import Tensor

from .vit import layer_norm


class TwoHeads(nn.Module):
    """Layers and passes of the classifier.

    The memory's: mean over the tokens, norm, linear. The process': norm of every token, mean, norm,
    linear. A subclass calls :meth:`_make_layers` in its constructor.
    """

    fc_norm: nn.LayerNorm
    process_norm: nn.LayerNorm
    process_fc_norm: nn.LayerNorm
    fc: nn.Linear
    process_fc: nn.Linear

    def _make_layers(self, in_channels: int, num_classes: int) -> None:
        self.fc_norm = layer_norm(in_channels)
        self.process_norm = layer_norm(in_channels)
        self.process_fc_norm = layer_norm(in_channels)
        self._make_classifiers(in_channels, num_classes)

    def _make_classifiers(self, in_channels: int, num_classes: int) -> None:
        """Both linear layers; they begin with zeros, as published."""
        self.fc = nn.Linear(in_channels, num_classes)
        self.process_fc = nn.Linear(in_channels, num_classes)
        for layer in (self.fc, self.process_fc):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _pool_memory(self, memory: Tensor) -> Tensor:
        """Memory tokens (B, H, W, C) -> (B, C)."""
        return self.fc_norm(memory.mean((1, 2)))

    def _pool_process(self, process: Tensor) -> Tensor:
        """Process tokens (B, H, W, C) -> (B, C)."""
        return self.process_fc_norm(self.process_norm(process).mean((1, 2)))
