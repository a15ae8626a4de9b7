"""How one stream of tokens reads another, at a cost that is linear in the tokens of both."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.precision import wide, without_autocast
from .archs import LATENT_SCALE


class LinearAttention(nn.Module):
    """The read and the write head of ViTTM (the "lin" head of the official code).

    Queries of the target, keys and values of the source, for every head by itself; see :func:`attend`.
    Queries and keys have C / 4 channels. There is no output projection: the official code declares one
    and never uses it.

    Args:
        embed_dims: C.
        num_heads: h.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims // LATENT_SCALE)
        self.k = nn.Linear(embed_dims, embed_dims // LATENT_SCALE)
        self.v = nn.Linear(embed_dims, embed_dims)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Tokens (B, H, W, C) that read, and (B, H', W', C) that are read -> (B, H, W, C)."""
        q, k, v = self.q(target), self.k(source), self.v(source)
        out = attend(self._heads(q), self._heads(k), self._heads(v))
        return out.transpose(1, 2).flatten(2).unflatten(1, target.shape[1:3])

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H, W, n) -> (B, h, H * W, n / h), a view."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """Linear attention: with phi(x) = elu(x) + 1,

        phi(q) (phi(k)^T v) / (phi(q) sum(phi(k)) + eps)

    ``phi(k)^T v`` is a small matrix a head, so nothing grows with the product of both token counts.

    The sums run over all tokens of the source. They are taken in float32 (float64 stays) whatever the
    precision of the rest: in half precision the sum of a few thousand keys overflows, and eps is next
    to nothing.

    Args:
        q: Of the target, (B, h, N, D).
        k: Of the source, (B, h, M, D).
        v: Of the source, (B, h, M, E).
        eps: Keeps the denominator above zero.

    Returns:
        (B, h, N, E), in the precision of ``v``.
    """
    dtype = v.dtype
    with without_autocast(v):
        q, k, v = F.elu(wide(q)) + 1, F.elu(wide(k)) + 1, wide(v)
        weight = q @ k.sum(2).unsqueeze(-1) + eps  # B, h, N, 1
        return (q @ (k.transpose(-2, -1) @ v) / weight).to(dtype)
