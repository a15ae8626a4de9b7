"""Conditional positional encoding with a shortcut, which folds into one convolution."""

import torch
import torch.nn as nn
from torch import Tensor

KERNEL = 7


class RepCPE(nn.Module):
    """x + dwconv(x), a depthwise 7x7 with bias; folded, the shortcut is 1 at the kernel's centre.

    The folded convolution has a name of its own, the official one: weights of one form can never be
    read as the other's in silence.

    Args:
        embed_dims: C.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.dwconv: nn.Conv2d | None = nn.Conv2d(
            embed_dims, embed_dims, KERNEL, padding=KERNEL // 2, groups=embed_dims
        )
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.reparam_conv is not None:
            return self.reparam_conv(x)
        assert self.dwconv is not None
        return x + self.dwconv(x)

    def fold(self) -> None:
        """Put the shortcut into the kernel, in place; a convolution that is not torch's own stays."""
        if type(self.dwconv) is not nn.Conv2d:
            return
        with torch.no_grad():
            self.dwconv.weight[:, :, KERNEL // 2, KERNEL // 2] += 1
        self.reparam_conv, self.dwconv = self.dwconv, None
