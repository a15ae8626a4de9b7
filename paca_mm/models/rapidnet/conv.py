"""Convolution, norm, activation, what all of RapidNet is made of; folded, it is one convolution."""

from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor

from ..common.pointwise import is_batch_norm


class ConvNormAct(nn.Module):
    """A convolution that keeps the size (or halves it at stride 2), a norm and maybe a GELU.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: Odd.
        stride: 1 or 2.
        dilation: Of the kernel; the padding grows with it.
        groups: ``in_channels`` for a depthwise convolution.
        bias: Of the convolution, beside the norm's own (the official keys have both).
        norm_cfg: mmcv's words for the norm.
        act: Whether a GELU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm_cfg: dict | None = None,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.norm: nn.Module | None = build_norm_layer(norm_cfg or dict(type='BN'), out_channels)[1]
        self.act: nn.Module | None = nn.GELU() if act else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else self.act(x)

    def fold(self) -> None:
        """Multiply a BatchNorm into the convolution, in place.

        Another norm, one without running statistics, and a convolution that somebody replaced
        (quantised, say) stay as they are.
        """
        norm: Any = self.norm
        if norm is None or not is_batch_norm(norm) or type(self.conv) is not nn.Conv2d:
            return
        if norm.running_var is None:
            return
        with torch.no_grad():
            weight, mean = self.conv.weight.double(), norm.running_mean.double()
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            if norm.weight is not None:
                scale = scale * norm.weight.double()
            shift = -mean if self.conv.bias is None else self.conv.bias.double() - mean
            bias = shift * scale
            if norm.bias is not None:
                bias = bias + norm.bias.double()
            trained = self.conv.weight
            self.conv.weight = _like(weight * scale.view(-1, 1, 1, 1), trained)
            self.conv.bias = _like(bias, trained)
        self.norm = None


def _like(value: Tensor, parameter: Tensor) -> nn.Parameter:
    """A parameter with another value."""
    return nn.Parameter(value.to(parameter), requires_grad=parameter.requires_grad)


def init_convs(module: nn.Module) -> None:
    """The published initialisation of all convolutions: Kaiming normal, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
