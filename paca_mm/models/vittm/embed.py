"""From an image to tokens, and their positions on grids of other sizes."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.tokens import as_tokens


class PatchEmbed(nn.Module):
    """A token for every patch of an image, with a learned position.

    Args:
        in_channels: Of the image.
        embed_dims: C.
        patch_size: Side of a patch in pixels.
        grid: Height and width, in patches, of the images that the positions are made for.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], embed_dims))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H * patch_size, W * patch_size) -> (B, H, W, C)."""
        tokens = as_tokens(self.proj(x))
        size = tokens.shape[1], tokens.shape[2]
        return tokens + resample(self.pos_embed, self.grid, size).unflatten(1, size)


def resample(pos_embed: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Positions of a grid as those of another: bicubic, antialiased, as timm resamples them.

    Args:
        pos_embed: (1, N, C).
        grid: Its height and width, H * W = N.
        size: Height and width of the other grid.

    Returns:
        (1, H' * W', C); the same tensor where the grids are equal.
    """
    if tuple(grid) == tuple(size):
        return pos_embed
    image = pos_embed.float().unflatten(1, tuple(grid)).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=tuple(size), mode='bicubic', antialias=True)
    return image.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
