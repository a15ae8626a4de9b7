"""The PaCa block: pre-norm attention, then a feed-forward network with a depthwise convolution."""

from typing import Optional

import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from .attention import PaCaAttention
from .downsample import NORM_EPS, as_picture, as_tokens


class ConvFFN(nn.Module):
    """Linear, depthwise 3x3 with a shortcut around it, GELU, linear."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = as_picture(self.fc1(x))
        # x + dwconv(x), with the shortcut as a one in the middle of the kernel: the same sum, and
        # one pass over the widest map of the block instead of two.
        kernel = self.dwconv.weight + _shortcut(self.dwconv.weight)
        x = F.conv2d(x, kernel, self.dwconv.bias, padding=1, groups=self.dwconv.groups)
        return self.fc2(F.gelu(as_tokens(x)))


def _shortcut(kernel: Tensor) -> Tensor:
    """The 3x3 kernel that leaves a picture as it is, (1, 1, 3, 3)."""
    return F.pad(kernel.new_ones(1, 1, 1, 1), (1, 1, 1, 1))


class PaCaBlock(nn.Module):
    """x + PaCa(LN(x)), then x + FFN(LN(x)).

    Args:
        embed_dims: C.
        num_heads: h.
        mlp_ratio: Width of the feed-forward network over C.
        num_clusters: M, or 0 for plain self-attention.
        clustering: See :class:`PaCaAttention`.
        drop_path_rate: Probability to drop either branch of a sample while training.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        num_clusters: int,
        clustering: Optional[nn.Module] = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.attn = PaCaAttention(embed_dims, num_heads, num_clusters, clustering)
        self.norm2 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.mlp = ConvFFN(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, z: Optional[Tensor] = None) -> tuple[Tensor, Optional[Tensor]]:
        """Patches (B, H, W, C) and an assignment (B, M, N) -> both, as they leave the block."""
        out, z = self.attn(self.norm1(x), z)
        x = x + self.drop_path(out)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x, z
