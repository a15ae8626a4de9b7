"""The external clustering teacher: a light ConvMixer with a top-down path that clusters for the ViT.

It teaches by being trained along, not by distillation: the task's loss is its only loss.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.tokens import as_image, as_tokens
from .clustering import assign


class _NormsFirst(nn.Module):
    """A module whose ``named_children`` lists its convolutions last; all else keeps its order.

    mmcv's ``fuse_conv_bn`` takes a BatchNorm to be applied to the convolution that is listed before
    it. Here a GELU lies between the two, so that nothing may be fused.
    """

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        return iter(sorted(super().named_children(), key=lambda c: isinstance(c[1], nn.Conv2d)))


class MixerUnit(_NormsFirst):
    """ConvMixer's unit: depthwise 7x7 with a shortcut, then 1x1, each conv -> GELU -> BatchNorm."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(embed_dims, embed_dims, 7, padding=3, groups=embed_dims)
        self.norm1 = nn.BatchNorm2d(embed_dims)
        self.pwconv = nn.Conv2d(embed_dims, embed_dims, 1)
        self.norm2 = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.norm1(F.gelu(self.dwconv(x)))
        return self.norm2(F.gelu(self.pwconv(x)))


class BlurTransition(_NormsFirst):
    """A fixed binomial 3x3 blur, then a strided 3x3 convolution -> GELU -> BatchNorm.

    The blur is a constant, so it is no part of the state dict.
    """

    blur_filter: Tensor

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.register_buffer('blur_filter', binomial_blur(in_channels), persistent=False)
        self.conv = nn.Conv2d(in_channels, embed_dims, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2))."""
        x = F.conv2d(x, self.blur_filter, padding=1, groups=x.shape[1])
        return self.norm(F.gelu(self.conv(x)))


def binomial_blur(channels: int) -> Tensor:
    """The depthwise kernel [1 2 1] x [1 2 1] / 16, (channels, 1, 3, 3)."""
    row = torch.tensor([1.0, 2.0, 1.0])
    return (torch.outer(row, row) / 16).repeat(channels, 1, 1, 1)


class Lateral(_NormsFirst):
    """1x1 convolution -> GELU -> BatchNorm, of the level above at this level's size."""

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, embed_dims, 1)
        self.norm = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) -> (B, C, H, W)."""
        return self.norm(F.gelu(self.conv(x)))


class ClusteringTeacher(nn.Module):
    """Clusters for every stage of the ViT, from the stem's output alone.

    Bottom-up: mixer units at the ViT's own widths, blurred transitions between the stages. Top-down:
    each level is the level above, resized and sent through a lateral layer, plus the bottom-up map,
    then one mixer unit; the topmost level is taken as it is. A 1x1 convolution scores the patches of
    each level.

    Args:
        embed_dims: C of each stage, as in the ViT.
        depths: Mixer units in each stage.
        num_clusters: M of each stage; 0 where the ViT's stage has plain attention. Top-down levels
            below which nobody clusters are not built.
    """

    def __init__(
        self, embed_dims: Sequence[int], depths: Sequence[int], num_clusters: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_clusters = tuple(num_clusters)
        self.lowest = next((i for i, m in enumerate(num_clusters) if m), len(embed_dims) - 1)
        for i, channels in enumerate(embed_dims):
            units = (MixerUnit(channels) for _ in range(depths[i]))
            self.add_module(f'stage{i + 1}', nn.Sequential(*units))
            if num_clusters[i]:
                self.add_module(f'to_clusters{i + 1}', nn.Conv2d(channels, num_clusters[i], 1))
        for i, (below, above) in enumerate(pairwise(embed_dims)):
            self.add_module(f'transition{i + 1}', BlurTransition(below, above))
            if i >= self.lowest:
                self.add_module(f'lateral{i + 1}', Lateral(above, below))
                self.add_module(f'fpn{i + 1}', MixerUnit(below))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Cluster the stem's output.

        Args:
            x: (B, H, W, C) of the first stage.

        Returns:
            The bottom-up maps as tokens, (B, H_i, W_i, C_i) a stage, and the assignments,
            (B, M_i, N_i) a stage or None where the stage has no clusters.
        """
        num_stages = len(self.num_clusters)
        x = as_image(x)
        maps: list[Tensor] = []
        for i in range(num_stages):
            if i:
                x = getattr(self, f'transition{i}')(x)
            x = getattr(self, f'stage{i + 1}')(x)
            maps.append(x)

        assignments: list[Tensor | None] = [None] * num_stages
        for i in reversed(range(self.lowest, num_stages)):
            if i + 1 < num_stages:
                x = F.interpolate(x, size=maps[i].shape[2:], mode='bilinear', align_corners=False)
                x = getattr(self, f'lateral{i + 1}')(x) + maps[i]
                x = getattr(self, f'fpn{i + 1}')(x)
            if self.num_clusters[i]:
                scores = getattr(self, f'to_clusters{i + 1}')(x)
                assignments[i] = self._assign(scores)
        return [as_tokens(m) for m in maps], assignments

    def _assign(self, scores: Tensor) -> Tensor:
        """Scores (B, M, H, W) -> the assignment (B, M, N)."""
        return assign(as_tokens(scores).flatten(1, 2))
