"""From patches to clusters: who belongs to which cluster, and what a cluster holds.

A clustering network gives every patch a score for each of M clusters; the softmax *over the patches*
turns each cluster's scores into weights that sum to one, and a cluster token is that weighted mean
of the patches.

The last layer of every network is called ``to_clusters``: it is the one whose shape depends on M, so
it is the one that is new when a checkpoint with another number of clusters is loaded, and the one
that a recipe trains faster (``custom_keys={'to_clusters': dict(lr_mult=10)}``).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common import tokens
from ..common.fast_paths import are_plain_layers, runs_eagerly_on_cpu
from ..common.pointwise import pointwise
from ..common.precision import without_autocast
from ..common.tokens import as_image, as_tokens


class ConvClustering(nn.Module):
    """Depthwise 7x7, then two pointwise layers (the official ``P2CConv2d``, the default)."""

    def __init__(self, embed_dims: int, num_clusters: int, mlp_ratio: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(embed_dims, embed_dims, 7, padding=3, groups=embed_dims)
        self.pwconv = nn.Conv2d(embed_dims, embed_dims, 1)
        self.to_clusters = nn.Conv2d(embed_dims, num_clusters, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> scores (B, N, M)."""
        h = self.dwconv(as_image(x))
        layers = self.dwconv, self.pwconv, self.to_clusters
        if torch.is_grad_enabled() or not (runs_eagerly_on_cpu(x) and are_plain_layers(*layers)):
            return self._scores(as_tokens(F.gelu(h)))
        h = as_tokens(torch.ops.aten.gelu_(h))
        rows = max(tokens.PIECE_BYTES // (h.shape[2] * h.shape[3] * h.element_size()), 1)
        if rows >= h.shape[1]:
            return self._scores(h)
        scores = h.new_empty(len(h), h.shape[1] * h.shape[2], len(self.to_clusters.weight))
        parts = scores.split(rows * h.shape[2], 1)
        for part, some in zip(parts, h.split(rows, 1), strict=True):
            part.copy_(self._scores(some))
        return scores

    def _scores(self, x: Tensor) -> Tensor:
        """(B, h, W, C) -> (B, h * W, M)."""
        x = F.gelu(pointwise(self.pwconv, x))
        return pointwise(self.to_clusters, x).flatten(1, 2)


class MlpClustering(nn.Module):
    """Two linear layers (the official ``P2CMlp``)."""

    def __init__(self, embed_dims: int, num_clusters: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(embed_dims * mlp_ratio)
        self.fc = nn.Linear(embed_dims, hidden)
        self.to_clusters = nn.Linear(hidden, num_clusters)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> scores (B, N, M)."""
        return self.to_clusters(F.gelu(self.fc(x.flatten(1, 2))))


class LinearClustering(nn.Module):
    """One linear layer without bias (the official ``P2CLinear``; no published result)."""

    def __init__(self, embed_dims: int, num_clusters: int, mlp_ratio: float) -> None:
        super().__init__()
        self.to_clusters = nn.Linear(embed_dims, num_clusters, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> scores (B, N, M)."""
        return self.to_clusters(x.flatten(1, 2))


#: What ``clustering=`` may name.
CLUSTERINGS: dict[str, type[nn.Module]] = {
    'conv': ConvClustering,
    'mlp': MlpClustering,
    'linear': LinearClustering,
}


def assign(scores: Tensor) -> Tensor:
    """Scores (B, N, M) -> the assignment z (B, M, N), each cluster's weights over all patches.

    The weights of a large image (1 / 64000 and less at 1333x800) are subnormal in fp16, so half
    precision scores give float32 weights; bf16 has the range and keeps its precision.
    """
    dtype = torch.float32 if scores.dtype == torch.float16 else scores.dtype
    # PyTorch's softmax adds up in float32 inside; autocast would also return float32.
    return scores.softmax(1, dtype=dtype).transpose(1, 2)


def pool(z: Tensor, x: Tensor) -> Tensor:
    """Assignment z (B, M, N) and patches x (B, N, C) -> cluster tokens c = z x, (B, M, C).

    Computed in the dtype of ``z``, under autocast too (see :func:`assign`), returned in that of ``x``.
    """
    with without_autocast(x):
        return torch.bmm(z, x.to(z.dtype)).to(x.dtype)
