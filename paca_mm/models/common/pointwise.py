"""1x1 convolutions as products of tokens, alone or in mmcv's ``ConvModule`` with norm and activation."""

import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .fast_paths import are_plain_layers, calls_only_forward
from .tokens import as_image, as_tokens

#: The forward passes that are known to be a fixed scale and shift in eval mode. A subclass of a
#: BatchNorm with a forward of its own may be anything.
_BATCH_NORMS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (B, H, W, C): a linear layer, the same without its set-up."""
    if are_plain_layers(conv):
        return F.linear(x, conv.weight.flatten(1), conv.bias)
    return as_tokens(conv(as_image(x)))


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer may be taken apart: :func:`as_linear`, a product, then :func:`norm_act`.

    True for a ``ConvModule`` of a 1x1 convolution, norm and activation, in this order, if neither it
    nor the convolution is watched or replaced. Norm and activation are called as modules.
    """
    return (
        type(layer) is ConvModule
        and layer.order == ('conv', 'norm', 'act')
        and getattr(layer, 'efficient_conv_bn_eval_forward', None) is None
        and calls_only_forward(layer)
        and are_plain_layers(layer.conv)
        and layer.conv.kernel_size == layer.conv.stride == (1, 1)
        and layer.conv.groups == 1
    )


def as_linear(layer: ConvModule) -> tuple[Tensor, Tensor | None]:
    """Weight (D, C) and bias of the 1x1 convolution, and of the norm where it is a fixed scale."""
    weight, bias = layer.conv.weight.flatten(1), layer.conv.bias
    if is_fixed_scale(layer):
        norm = layer.norm
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        weight = weight * scale.unsqueeze(1)
        bias = shift * scale + (0 if norm.bias is None else norm.bias)
    return weight, bias


def norm_act(layer: ConvModule, x: Tensor) -> Tensor:
    """What a ``ConvModule`` does after its convolution, less what :func:`as_linear` took over."""
    if layer.with_norm and not is_fixed_scale(layer):
        x = layer.norm(x)
    return layer.activate(x) if layer.with_activation else x


def is_fixed_scale(layer: ConvModule) -> bool:
    """Whether the norm is a BatchNorm that runs on its statistics, and nobody watches it."""
    return (
        layer.with_norm
        and is_batch_norm(layer.norm)
        and not layer.norm.training
        and layer.norm.running_var is not None
        and calls_only_forward(layer.norm)
    )


def is_batch_norm(norm: nn.Module) -> bool:
    """Whether a norm computes what torch's BatchNorm does, and no subclass does something else."""
    return getattr(type(norm), 'forward', None) in _BATCH_NORMS
