"""The inverted residual block, which RapidNet is made of where maps are large."""

import torch
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from .conv import ConvNormAct

#: Hidden channels over channels, in both kinds of block.
EXPANSION = 4

#: What layer scales begin with.
LAYER_SCALE = 1e-5


class InvertedResidual(nn.Module):
    """x + s * project(dwconv(expand(x))): 1x1 to 4 C, depthwise 3x3, 1x1 back to C.

    ``expand`` and ``dwconv`` end in a GELU, ``project`` in its norm. s is one number a channel.

    Args:
        embed_dims: C.
        drop_path_rate: Probability to drop the branch of a sample while training.
        norm_cfg: mmcv's words for the norms.
    """

    def __init__(
        self, embed_dims: int, drop_path_rate: float = 0.0, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        hidden = EXPANSION * embed_dims
        self.expand = ConvNormAct(embed_dims, hidden, norm_cfg=norm_cfg)
        self.dwconv = ConvNormAct(hidden, hidden, 3, groups=hidden, norm_cfg=norm_cfg)
        self.project = ConvNormAct(hidden, embed_dims, norm_cfg=norm_cfg, act=False)
        self.layer_scale_1 = nn.Parameter(torch.full((embed_dims, 1, 1), LAYER_SCALE))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = self.project(self.dwconv(self.expand(x)))
        return x + self.drop_path(self.layer_scale_1 * out)
