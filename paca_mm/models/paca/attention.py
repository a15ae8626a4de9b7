"""Patch-to-cluster attention: queries from the N patches, keys and values from M clusters."""

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.families import load_member

from ..common.fast_paths import are_plain_layers, runs_eagerly_on_cpu
from ..common.tokens import add_product
from .clustering import assign, pool
from .downsample import layer_norm


class PaCaAttention(nn.Module):
    """Multi-head attention from patches to clusters.

    Args:
        embed_dims: C.
        num_heads: h; C must be a multiple of it.
        num_clusters: M; 0 makes this plain self-attention over all patches.
        clustering: The network that scores the patches, or None where the assignment comes from
            outside (an earlier block of the stage, or the teacher).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_clusters: int,
        clustering: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_clusters = num_clusters
        if num_clusters:
            self.cluster_norm = layer_norm(embed_dims)
        self.clustering = clustering
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attend from every patch to the clusters.

        Args:
            x: Normalised patches (B, H, W, C): queries, scores and cluster tokens all read these.
            z: The assignment (B, M, N) to use where this layer has no clustering of its own.

        Returns:
            The patches (B, H, W, C), and the assignment that was used (None in plain attention).
        """
        out, z = self._attend(x, z)
        return self.proj(out), z

    def can_add(self, x: Tensor) -> bool:
        """Whether :meth:`added_to` may stand in for :meth:`forward` and a sum, gradients aside."""
        return (
            runs_eagerly_on_cpu(x)
            and are_plain_layers(self.proj)
            and self.proj.bias is not None
            and type(self).forward is PaCaAttention.forward
        )

    def added_to(
        self, residual: Tensor, x: Tensor, z: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``residual + forward(x, z)`` and the assignment, where :meth:`can_add` says so and no
        gradient is wanted; the last product is formed inside of the sum.
        """
        out, z = self._attend(x, z)
        residual = (residual + self.proj.bias).contiguous()
        add_product(residual, out, self.proj.weight)
        return residual, z

    def _attend(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """:meth:`forward` without its last layer ``proj``."""
        patches = x.flatten(1, 2)  # B, N, C
        clusters = patches
        if self.num_clusters:
            if self.clustering is not None:
                z = assign(self.clustering(x))  # B, M, N
            # Without a clustering of its own, a layer is given an assignment.
            clusters = self.cluster_norm(pool(z, patches))  # type: ignore[arg-type]  # B, M, C
        out = F.scaled_dot_product_attention(
            self._heads(self.q(patches)),  # B, h, N, d
            self._heads(self.k(clusters)),  # B, h, M, d
            self._heads(self.v(clusters)),
        )
        return out.transpose(1, 2).reshape(x.shape), z  # B, H, W, C

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> (B, h, n, d), a view."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TokenAttention(nn.Module):
    """Any attention of tokens as a part of the block, in stages without clusters.

    Args:
        inner: Called as ``inner(tokens) -> tokens``, (B, N, C) each.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Patches (B, H, W, C) and an assignment (B, M, N) -> other patches, and the same assignment."""
        return self.inner(x.flatten(1, 2)).reshape(x.shape), z


def castling_attention(
    embed_dims: int, num_heads: int, arguments: Mapping[str, Any]
) -> TokenAttention:
    """Castling's attention, which is another family's; with biases, as PaCa's own.

    Args:
        embed_dims: C.
        num_heads: h.
        arguments: Further arguments of ``CastlingAttention``.

    Raises:
        UserError: The family is not there.
    """
    try:
        attention = load_member('CastlingAttention')
    except KeyError as e:
        raise UserError(
            "plain_attention='castling' needs the family castling (paca_mm/models/castling), which "
            "this installation does not have; plain_attention='softmax' needs nothing."
        ) from e
    return TokenAttention(attention(embed_dims, num_heads, **{'qkv_bias': True, **arguments}))
