"""Means and variances: of a channel of an image, of a batch, of the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from ..common.fast_paths import fast_paths_allowed, is_compiling
from ..common.precision import wide


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the positions of an image, (B, C, ...) -> twice (B, C).

    In float32 for half precision, whose variance would overflow. What is kept for the backward pass is
    the map as it is, and no copy in float32.
    """
    if fast_paths_allowed() and not is_compiling():
        return _Moments.apply(x)
    return _moments(x)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(wide(x), tuple(range(2, x.ndim)), correction=0)
    return mean, var


class _Moments(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        if x.device.type != 'cpu':
            return _moments(x)
        # Two passes of vectorised kernels; on a CPU they take a seventh of torch.var_mean's time.
        places = tuple(range(2, x.ndim))
        x = wide(x)
        mean = x.mean(places, keepdim=True)
        off = x - mean
        return mean.flatten(1), off.mul_(off).mean(places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        per_position = 1 / x[0, 0].numel()
        slope = 2 * per_position * grad_var
        return scale_and_shift(x, slope, per_position * grad_mean - slope * mean)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x * scale + shift`` in the dtype of x (B, C, ...), with a scale and a shift (B, C) or (1, C)."""
    shape = (*scale.shape, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)


def batch_moments(
    mean: Tensor, var: Tensor, positions: int, sync: bool = False
) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean and biased variance of a batch from those of its images, and how many values they are of.

    Args:
        mean: (B, C).
        var: (B, C), biased.
        positions: Of each image.
        sync: Over the batches of all processes, whose images may be of other sizes.

    Returns:
        Twice (C,), and a number: a tensor under ``sync``.
    """
    if not sync:
        total = mean.mean(0)
        return total, (var + (mean - total).square()).mean(0), len(mean) * positions
    here = mean.new_full((1,), len(mean) * positions)
    sums = _AllReduce.apply(torch.cat([positions * mean.sum(0), here]))
    total, count = sums[:-1] / sums[-1], sums[-1].detach()
    squares = positions * (var + (mean - total).square()).sum(0)
    return total, _AllReduce.apply(squares) / count, count


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; the gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def several_processes() -> bool:
    """Whether this is one of several processes of a job."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def uses_batch(norm: nn.BatchNorm2d) -> bool:
    """Whether a BatchNorm normalises by the batch, rather than by what it has seen in training."""
    return norm.training or norm.running_mean is None


def track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: Tensor | int) -> None:
    """Update the running statistics of a BatchNorm in training, as torch does: var unbiased.

    Args:
        norm: The layer; nothing happens in eval mode, or if it keeps no statistics.
        mean: (C,), of the batch.
        var: (C,), biased.
        count: How many values they are of.
    """
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        rate: Any = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if rate is None:  # the average over all batches
                rate = 1.0 / norm.num_batches_tracked
        unbiased = var * (count / (count - 1))
        for statistic, found in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            statistic.copy_(statistic + rate * (found - statistic))
