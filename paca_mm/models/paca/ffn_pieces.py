"""The feed-forward network of :mod:`.ffn` on a CPU: the same numbers, a piece at a time.

The hidden map is four times as wide as anything else in a block, and until the last linear layer
nothing in it crosses channels. So a large one is made a few channels (of a few images, or of a band
of rows of one) at a time, in memory that stays in the cache, and each piece is multiplied into the
sum at once.

For the backward pass the hidden map is kept before and after its depthwise convolution. No product
and no convolution is computed twice, only GELU, and autograd would keep one map more. Where an image
is large (:data:`KEPT_BYTES`) only the input is kept, and the pieces are made again.
docs/performance.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common import tokens
from ..common.fast_paths import are_plain_layers, runs_eagerly_on_cpu
from ..common.tokens import add_product, as_image, as_tokens

if TYPE_CHECKING:
    from .ffn import ConvFFN

#: A band of rows has as many at least, because the one above and the one below are computed with it.
FEWEST_ROWS = 16

#: The largest hidden map, in bytes, that is kept for the backward pass. One image counts, not the
#: batch: its size decides which share of a step's memory the hidden maps take, and of its time.
KEPT_BYTES = 16 * 2**20


def can_run(network: ConvFFN, x: Tensor) -> bool:
    """Whether this form may stand in for calling the layers of ``network`` on ``x``.

    A GPU would only see more and smaller kernels, and torch.compile plans its memory by itself.
    """
    layers = network.fc1, network.dwconv, network.fc2
    return (
        runs_eagerly_on_cpu(x)
        and are_plain_layers(*layers)
        and all(layer.bias is not None for layer in layers)
    )


def forward(network: ConvFFN, x: Tensor) -> Tensor:
    """``network(x)``, where :func:`can_run` says so; ready for a backward pass."""
    return _Pieces.apply(x.contiguous(), *_parameters(network))


def add_to(network: ConvFFN, out: Tensor, norm: Callable[[Tensor], Tensor]) -> None:
    """``out += network(norm(out))`` in place (``out`` is contiguous), where :func:`can_run` says so and
    no gradient is wanted.

    Of a large image only a band of rows is normalised at a time.
    """
    parameters = _parameters(network)
    in_bands = bands(out)
    if len(in_bands) == 1:  # several images at a time, where they are small
        x = norm(out)
        out += parameters[-1]
        _add(out, x, parameters)
        return
    for image in out.split(1):
        above = None
        for rows, around, inner in in_bands:
            x = norm(image[:, around])
            if above is not None:  # its sum is made already
                x[:, :1] = above
            above = x[:, inner.stop - 1 : inner.stop].clone()
            image[:, rows] += parameters[-1]
            _add(image[:, rows], x, parameters, inner=inner)


def with_shortcut(kernel: Tensor) -> Tensor:
    """The kernel of x + dwconv(x), (C, 1, 3, 3): a one is added in the middle.

    The same sum, and one pass over the hidden map instead of two.
    """
    return kernel + F.pad(kernel.new_ones(1, 1, 1, 1), (1, 1, 1, 1))


def depthwise(h: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(B, c, H, W) -> the same."""
    return F.conv2d(h, kernel, bias, padding=1, groups=len(kernel))


def _parameters(network: ConvFFN) -> tuple[Tensor, ...]:
    layers: Sequence[Any] = (network.fc1, network.dwconv, network.fc2)
    return tuple(p for layer in layers for p in (layer.weight, layer.bias))


def cut(x: Tensor, hidden: int) -> tuple[int, list[slice]]:
    """How many images to take at a time, and which of the hidden channels."""
    _keep_freed_memory()
    position = x.shape[1] * x.shape[2] * x.element_size()  # one channel of one image
    images = max(min(tokens.PIECE_BYTES // (128 * position), len(x)), 1)
    channels = max(tokens.PIECE_BYTES // (images * position), 64)
    count = -(-hidden // channels)
    channels = -(-hidden // (16 * count)) * 16
    return images, [slice(i, min(i + channels, hidden)) for i in range(0, hidden, channels)]


def bands(x: Tensor) -> list[tuple[slice, slice, slice]]:
    """Of patches (B, H, W, C): which rows to make at a time, where 128 hidden channels of all are
    large: of fewer, the products would be slow.

    Returns:
        For each band its rows, its rows with their neighbours, which the convolution reads too, and
        where the first are among the second.
    """
    height, width = x.shape[1:3]
    rows = max(tokens.PIECE_BYTES // (128 * width * x.element_size()), FEWEST_ROWS)
    found = []
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        above = min(start, 1)
        around = slice(start - above, min(stop + 1, height))
        found.append((slice(start, stop), around, slice(above, above + stop - start)))
    return found


@cache
def _keep_freed_memory() -> None:
    """Make freed blocks of up to 32 MiB stay with the process, for the next piece.

    glibc returns larger blocks than the largest it has seen freed to the system, which has to clear
    every page before the next step gets it back (mallopt(3), M_MMAP_THRESHOLD: the threshold adjusts
    itself). So it is shown the largest block it will learn from; nothing is ever written to it.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8, device='cpu')


def _hidden(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    """fc1 of tokens (B, H, W, C), as a channels-last image (B, c, H, W).

    As a convolution, which adds the bias as it goes; a linear layer writes the bias first.
    """
    return F.conv2d(as_image(x), w1[..., None, None], b1)


def _add(
    out: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    kept: list[Tensor] | None = None,
    inner: slice | None = None,
) -> None:
    """``out += network(x)`` but for the bias of fc2.

    Args:
        kept: Where to put the hidden map of each piece, before and after the depthwise convolution;
            of all rows.
        inner: The rows of the network's answer that ``out`` has, if not all.
    """
    w1, b1, kernel, bias, w2, _ = parameters
    kernel = with_shortcut(kernel)
    images, parts = cut(x, len(w1))
    for sum_, some in zip(out.split(images), x.split(images), strict=True):
        for part in parts:
            h = _hidden(some, w1[part], b1[part])
            p = depthwise(h, kernel[part], bias[part])
            if kept is None:
                g = torch.ops.aten.gelu_(as_tokens(p)[:, inner or slice(None)])
            else:
                kept += h, p
                g = F.gelu(as_tokens(p))
            add_product(sum_, g, w2[:, part])


class _Pieces(torch.autograd.Function):
    """The network and its gradients, piece by piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        hidden = len(parameters[0]) * x.shape[1] * x.shape[2] * x.element_size()
        kept: list[Tensor] | None = [] if hidden <= KEPT_BYTES else None
        out = parameters[-1].expand_as(x).clone(memory_format=torch.contiguous_format)
        _add(out, x, parameters, kept)
        ctx.save_for_backward(x, *parameters, *(kept or ()))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradients
            return _gradients_of_the_whole(saved[:7], ctx.needs_input_grad, grad)
        with torch.autocast('cpu', enabled=False):
            return _gradients(saved[:7], saved[7:], grad.contiguous())


def _gradients(saved: Sequence[Tensor], kept: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Of x and of the parameters, in their order, from that of the result."""
    x, w1, b1, kernel, bias, w2, _ = saved
    kernel = with_shortcut(kernel)
    found = of_x, of_w1, of_b1, of_kernel, of_bias, of_w2 = tuple(
        torch.zeros_like(t) for t in (x, w1, b1, kernel, bias, w2)
    )
    images, parts = cut(x, len(w1))
    pieces = (t.split(images) for t in (x, grad, of_x))
    in_order = iter(kept)
    for some, above, below in zip(*pieces, strict=True):
        for part in parts:
            if kept:
                h, p = next(in_order), next(in_order)
            else:
                h = _hidden(some, w1[part], b1[part])
                p = depthwise(h, kernel[part], bias[part])
            p = as_tokens(p)
            of_w2[:, part].addmm_(above.flatten(0, 2).t(), F.gelu(p).flatten(0, 2))
            of_p = above @ w2[:, part]
            torch.ops.aten.gelu_backward.grad_input(of_p, p, grad_input=of_p)
            of_h, k, b = torch.ops.aten.convolution_backward(
                as_image(of_p), h, kernel[part], [h.shape[1]],
                (1, 1), (1, 1), (1, 1), False, (0, 0), h.shape[1], (True, True, True),
            )  # fmt: skip
            of_kernel[part] += k
            of_bias[part] += b
            of_h = as_tokens(of_h).flatten(0, 2)
            of_w1[part].addmm_(of_h.t(), some.flatten(0, 2))
            of_b1[part] += of_h.sum(0)
            below.view(-1, below.shape[-1]).addmm_(of_h, w1[part])
    return (*found, grad.sum((0, 1, 2)))


def _gradients_of_the_whole(
    saved: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same, through a graph of their own."""
    x, w1, b1, kernel, bias, w2, b2 = saved
    h = depthwise(as_image(F.linear(x, w1, b1)), with_shortcut(kernel), bias)
    out = F.linear(F.gelu(as_tokens(h)), w2, b2)
    inputs = [t for t, needed in zip(saved, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)
