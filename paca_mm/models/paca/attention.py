"""Patch-to-cluster attention: queries from the N patches, keys and values from M clusters."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.families import load_member

from ..common import tokens
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
        clusters, z = self._clusters(x, z)
        k, v = self._heads(self.k(clusters)), self._heads(self.v(clusters))
        out = self._attend(x.flatten(1, 2), k, v)
        return self.proj(out.reshape(x.shape)), z

    def reads(self, x: Tensor, z: Tensor) -> Tensor:
        """How much every patch reads from each cluster: the weights that :meth:`forward` applies.

        Args:
            x: Normalised patches (B, H, W, C).
            z: The assignment (B, M, N) that :meth:`forward` used and returned.

        Returns:
            (B, h, N, M); over the clusters they sum to 1.
        """
        patches = x.flatten(1, 2)
        query = self._heads(self.q(patches))
        key = self._heads(self.k(self.cluster_norm(pool(z, patches))))
        return (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(3)

    def can_add(self, x: Tensor) -> bool:
        """Whether :meth:`added_to` may stand in for :meth:`forward` and a sum, gradients aside."""
        return (
            runs_eagerly_on_cpu(x)
            and are_plain_layers(self.proj)
            and self.proj.bias is not None
            and type(self).forward is PaCaAttention.forward
        )

    def added_to(
        self, x: Tensor, norm: Callable[[Tensor], Tensor], z: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``x + forward(norm(x), z)`` and the assignment, where :meth:`can_add` says so and no gradient
        is wanted; the last product is formed inside of the sum.

        Keys and values are the same for all patches, so that those of a large image take their turn a
        piece at a time, in memory that stays in the cache.

        Args:
            x: Patches (B, H, W, C), which stay as they are.
            norm: Normalises each patch by itself.
            z: As in :meth:`forward`.
        """
        patches = x.flatten(1, 2)
        images, length = self._piece(patches)
        pools_only = self.num_clusters > 0 and self.clustering is None
        if in_turn := z is not None and pools_only and length < patches.shape[1]:
            # The clusters are sums over patches: no normalised map is made either.
            pooled = patches.new_zeros(len(x), self.num_clusters, patches.shape[2])
            for weights, part in zip(z.split(length, 2), patches.split(length, 1), strict=True):
                pooled.baddbmm_(weights, norm(part))
            clusters = self.cluster_norm(pooled)
        else:
            normed = norm(x)
            patches = normed.flatten(1, 2)
            clusters, z = self._clusters(normed, z)
        k, v = self._heads(self.k(clusters)), self._heads(self.v(clusters))
        out = (x + self.proj.bias).contiguous()
        whole = out.flatten(1, 2), patches, k, v
        for sums, some, keys, values in zip(*(t.split(images) for t in whole), strict=True):
            for sum_, part in zip(sums.split(length, 1), some.split(length, 1), strict=True):
                queries = norm(part) if in_turn else part
                add_product(sum_, self._attend(queries, keys, values), self.proj.weight)
        return out, z

    def _piece(self, patches: Tensor) -> tuple[int, int]:
        """How many images to take at a time, and how many patches of one."""
        length = patches.shape[1]
        token = patches.shape[2] * patches.element_size()
        # What is hooked or replaced is called once; half precision would round each piece.
        if not are_plain_layers(self.q) or patches.dtype not in (torch.float32, torch.float64):
            return max(len(patches), 1), length
        images = max(tokens.PIECE_BYTES // (length * token), 1)
        return images, length if images > 1 else max(tokens.PIECE_BYTES // token, 1)

    def _clusters(self, x: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What keys and values are made of, (B, M, C), and the assignment."""
        if not self.num_clusters:
            return x.flatten(1, 2), z
        if self.clustering is not None:
            z = assign(self.clustering(x))  # B, M, N
        # Without a clustering of its own, a layer is given an assignment.
        return self.cluster_norm(pool(z, x.flatten(1, 2))), z  # type: ignore[arg-type]

    def _attend(self, patches: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Patches (B, n, C), keys and values by heads, (B, h, M, d) -> what was read, (B, n, C)."""
        out = F.scaled_dot_product_attention(self._heads(self.q(patches)), k, v)
        return out.transpose(1, 2).flatten(2)

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
