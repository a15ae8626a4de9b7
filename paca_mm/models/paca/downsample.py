"""The stem and the transitions between stages: strided 3x3 convolutions and a LayerNorm."""

from functools import partial

import torch.nn as nn
from torch import Tensor

from ..common.tokens import as_image, as_tokens

NORM_EPS = 1e-6  # of every LayerNorm in PaCa-ViT
layer_norm = partial(nn.LayerNorm, eps=NORM_EPS)


def _halve(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution of stride 2: a side of n becomes ceil(n / 2)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)


class PatchEmbed(nn.Module):
    """The stem: two strided convolutions with nothing between them, then LayerNorm.

    Args:
        in_channels: Channels of the image.
        embed_dims: C of the first stage; the first convolution has half of them.
    """

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            _halve(in_channels, embed_dims // 2), _halve(embed_dims // 2, embed_dims)
        )
        self.norm = layer_norm(embed_dims)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 4), ceil(W / 4), C)."""
        return self.norm(as_tokens(self.proj(image)))


class Transition(nn.Module):
    """From one stage to the next: a strided convolution, then LayerNorm."""

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.proj = _halve(in_channels, embed_dims)
        self.norm = layer_norm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""
        return self.norm(as_tokens(self.proj(as_image(x))))
