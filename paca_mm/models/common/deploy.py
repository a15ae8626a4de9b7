"""Pieces of graphs for deployment, which the families' ``deploy`` modules share."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .pointwise import as_linear, is_batch_norm

_OWN = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity, nn.Dropout)


def model_channels(model: nn.Module) -> int:
    """The channels of the images of a host's model, or of a backbone."""
    return int(getattr(getattr(model, 'backbone', model), 'in_channels', 3) or 3)


def constant(value: Tensor) -> nn.Parameter:
    """A parameter that nobody trains."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)


def are_torchs_own(module: nn.Module) -> bool:
    """Whether all layers below a module are torch's own, so that their weights say what they do."""
    leaves = (m for m in module.modules() if not list(m.children()))
    return all(
        type(leaf) in _OWN or isinstance(leaf, _BatchNorm) or not list(leaf.parameters())
        for leaf in leaves
    )


def as_convolution(layer: nn.Linear | nn.Conv2d) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution; what is a convolution already is returned as it is."""
    if isinstance(layer, nn.Conv2d):
        return layer
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    conv.weight = constant(layer.weight[:, :, None, None])
    if layer.bias is not None:
        conv.bias = constant(layer.bias)
    return conv


def folded(layer: Any) -> nn.Conv2d | None:
    """The 1x1 convolution of mmcv's ``ConvModule`` with its BatchNorm in it; None for others."""
    conv = getattr(layer, 'conv', None)
    if type(conv) is not nn.Conv2d or tuple(conv.kernel_size) != (1, 1) or conv.groups != 1:
        return None
    if tuple(conv.stride) != (1, 1) or getattr(layer, 'order', ()) != ('conv', 'norm', 'act'):
        return None
    if layer.with_norm and not is_batch_norm(layer.norm):
        return None
    weight, bias = as_linear(layer)
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    made.weight = constant(weight[:, :, None, None])
    made.bias = constant(weight.new_zeros(len(weight)) if bias is None else bias)
    return made


class LinearMaps:
    """Bilinear resizing as two matrices, for a graph whose sizes are not known when it is made.

    Args:
        align_corners: As of ``torch.nn.functional.interpolate``.
    """

    def __init__(self, align_corners: bool) -> None:
        self.align_corners = align_corners

    def matrix(self, small: Any, large: Any, like: Tensor) -> Tensor:
        """(small, large): what each of ``small`` points gives to each of ``large``."""
        at = torch.arange(large, device=like.device).to(like.dtype)
        points = torch.arange(small, device=like.device).to(like.dtype)
        if self.align_corners:
            at = at * ((small - 1) / (large - 1))
        else:
            at = ((at + 0.5) * (small / large) - 0.5).clamp(min=0)
        at = torch.minimum(at, points[-1:])
        return (1 - (at.unsqueeze(0) - points.unsqueeze(1)).abs()).clamp(min=0)

    def adjoint(self, z: Tensor, size: Sequence[Any]) -> Tensor:
        """z (B, L, H, W) -> z R (B, L, h, w), R being the resizing from h x w to H x W."""
        rows = self.matrix(size[0], z.shape[2], z)  # h, H
        columns = self.matrix(size[1], z.shape[3], z)  # w, W
        return rows @ (z @ columns.t())
