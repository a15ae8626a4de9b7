"""Patch-to-cluster attention: queries from the N patches, keys and values from M clusters."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .clustering import assign, pool
from .downsample import NORM_EPS


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
            self.cluster_norm = nn.LayerNorm(embed_dims, eps=NORM_EPS)
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
        out, z = self.attend(x, z)
        return self.proj(out), z

    def attend(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """:meth:`forward` without its last layer ``proj``."""
        patches = x.flatten(1, 2)  # B, N, C
        clusters = patches
        if self.num_clusters:
            if self.clustering is not None:
                z = assign(self.clustering(x))  # B, M, N
            clusters = self.cluster_norm(pool(z, patches))  # B, M, C
        out = F.scaled_dot_product_attention(
            self._heads(self.q(patches)),  # B, h, N, d
            self._heads(self.k(clusters)),  # B, h, M, d
            self._heads(self.v(clusters)),
        )
        return out.transpose(1, 2).reshape(x.shape), z  # B, H, W, C

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> (B, h, n, d), a view."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
