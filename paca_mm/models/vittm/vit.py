"""The standard ViT block, which the process tokens go through."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

#: Of every LayerNorm, as in timm's ViT.
NORM_EPS = 1e-6


def layer_norm(embed_dims: int) -> nn.LayerNorm:
    """A norm of the channels of every token."""
    return nn.LayerNorm(embed_dims, eps=NORM_EPS)


class Attention(nn.Module):
    """Softmax attention of all tokens to all.

    Args:
        embed_dims: C.
        num_heads: h.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B, h, N, C / h
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))


class Mlp(nn.Module):
    """Two linear layers and a GELU between them.

    Args:
        embed_dims: C.
        mlp_ratio: Hidden channels over C.
    """

    def __init__(self, embed_dims: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(embed_dims * mlp_ratio)
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.fc2 = nn.Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))
