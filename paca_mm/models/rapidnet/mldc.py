"""The MLDC block: two dilated convolutions side by side, then a large-kernel feed-forward network."""

import torch
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from .conv import ConvNormAct
from .cpe import RepCPE
from .inverted import EXPANSION, LAYER_SCALE


class MLDC(nn.Module):
    """Multi-level dilated convolution: fc2(dilated2(y) + dilated3(y)) of y = fc1(cpe(x)).

    The dilated convolutions are dense 3x3 with norm and GELU, ``fc1`` and ``fc2`` 1x1 with a norm.

    Args:
        embed_dims: C.
        norm_cfg: mmcv's words for the norms.
    """

    def __init__(self, embed_dims: int, norm_cfg: dict | None = None) -> None:
        super().__init__()
        self.cpe = RepCPE(embed_dims)
        self.fc1 = ConvNormAct(embed_dims, embed_dims, norm_cfg=norm_cfg, act=False)
        self.dilated2 = ConvNormAct(embed_dims, embed_dims, 3, dilation=2, norm_cfg=norm_cfg)
        self.dilated3 = ConvNormAct(embed_dims, embed_dims, 3, dilation=3, norm_cfg=norm_cfg)
        self.fc2 = ConvNormAct(embed_dims, embed_dims, norm_cfg=norm_cfg, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self.fc1(self.cpe(x))
        return self.fc2(self.dilated2(y) + self.dilated3(y))


class LKFFN(nn.Module):
    """Large-kernel feed-forward network: depthwise 7x7, 1x1 to 4 C with GELU, 1x1 back to C.

    Args:
        embed_dims: C.
        norm_cfg: mmcv's words for the norms.
    """

    def __init__(self, embed_dims: int, norm_cfg: dict | None = None) -> None:
        super().__init__()
        hidden = EXPANSION * embed_dims
        self.dwconv = ConvNormAct(
            embed_dims, embed_dims, 7, groups=embed_dims, bias=False, norm_cfg=norm_cfg, act=False
        )
        self.fc1 = ConvNormAct(embed_dims, hidden, norm_cfg=norm_cfg)
        self.fc2 = ConvNormAct(hidden, embed_dims, norm_cfg=norm_cfg, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.fc2(self.fc1(self.dwconv(x)))


class MLDCBlock(nn.Module):
    """x + s1 * mixer(x), then x + s2 * ffn(x); s1 and s2 are one number a channel.

    Args:
        embed_dims: C.
        drop_path_rate: Probability to drop either branch of a sample while training.
        norm_cfg: mmcv's words for the norms.
    """

    def __init__(
        self, embed_dims: int, drop_path_rate: float = 0.0, norm_cfg: dict | None = None
    ) -> None:
        super().__init__()
        self.mixer = MLDC(embed_dims, norm_cfg)
        self.ffn = LKFFN(embed_dims, norm_cfg)
        self.layer_scale_1 = nn.Parameter(torch.full((embed_dims, 1, 1), LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((embed_dims, 1, 1), LAYER_SCALE))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.drop_path(self.layer_scale_1 * self.mixer(x))
        return x + self.drop_path(self.layer_scale_2 * self.ffn(x))
