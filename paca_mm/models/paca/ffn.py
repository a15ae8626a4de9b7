"""The feed-forward network of a block: linear, depthwise 3x3 with a shortcut around it, GELU, linear.

Its hidden map is four times as wide as anything else in a block, and until the last linear layer
nothing in it crosses channels. So on a CPU a large one is made a few channels (of a few images) at a
time, in memory that stays in the cache, and each piece is multiplied into the sum at once; for the
backward pass only the input is kept, and the pieces are made again. docs/performance.md has the
figures.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.fast_paths import is_bare, is_eager_on_cpu
from ..common.tokens import as_image, as_tokens

#: Bytes that a piece of the hidden map takes, unless 64 channels of one image are more.
PIECE_BYTES = 8 * 2**20


class ConvFFN(nn.Module):
    """Linear, depthwise 3x3 with a shortcut around it, GELU, linear."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # Half precision would add up the gradients of the parameters piece by piece, and round each.
        precise = x.dtype in (torch.float32, torch.float64)
        if precise and self.in_pieces(x) and len(_pieces(x, self.fc1.out_features)[1]) > 1:
            return _Pieces.apply(x.contiguous(), *self._parameters_in_order())
        h = as_image(self.fc1(x))
        if is_bare(self.dwconv):
            h = _depthwise(h, _with_shortcut(self.dwconv.weight), self.dwconv.bias)
        else:
            h = h + self.dwconv(h)
        return self.fc2(F.gelu(as_tokens(h)))

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """``out += forward(x)`` in place (``out`` is contiguous), where :meth:`in_pieces` says so and
        no gradient is wanted.
        """
        out += self.fc2.bias
        _add_pieces(out, x, *self._parameters_in_order()[:-1])

    def _parameters_in_order(self) -> tuple[Tensor, ...]:
        layers = (self.fc1, self.dwconv, self.fc2)
        return tuple(p for layer in layers for p in (layer.weight, layer.bias))

    def in_pieces(self, x: Tensor) -> bool:
        """Whether to work piece by piece.

        A GPU would only see more and smaller kernels, and torch.compile plans its memory by itself.
        """
        return is_eager_on_cpu(x) and is_bare(self.fc1, self.dwconv, self.fc2)


def add_product(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """``out += x @ weight.T`` of tokens (..., C), in place; ``out`` is contiguous."""
    out.view(-1, out.shape[-1]).addmm_(x.flatten(0, -2), weight.t())


def _with_shortcut(kernel: Tensor) -> Tensor:
    """The kernel of x + dwconv(x), (C, 1, 3, 3): a one is added in the middle.

    The same sum, and one pass over the hidden map instead of two.
    """
    return kernel + F.pad(kernel.new_ones(1, 1, 1, 1), (1, 1, 1, 1))


def _pieces(x: Tensor, hidden: int) -> tuple[int, list[slice]]:
    """How many images to take at a time, and which of the hidden channels."""
    _keep_freed_memory()
    position = x.shape[1] * x.shape[2] * x.element_size()  # one channel of one image
    images = max(min(PIECE_BYTES // (128 * position), len(x)), 1)
    channels = max(PIECE_BYTES // (images * position), 64)
    count = -(-hidden // channels)
    channels = -(-hidden // (16 * count)) * 16
    return images, [slice(i, min(i + channels, hidden)) for i in range(0, hidden, channels)]


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


def _depthwise(h: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(B, c, H, W) -> the same."""
    return F.conv2d(h, kernel, bias, padding=1, groups=len(kernel))


def _add_pieces(
    out: Tensor, x: Tensor, w1: Tensor, b1: Tensor, kernel: Tensor, bias: Tensor, w2: Tensor
) -> None:
    """``out += fc2(hidden(x))`` but for the bias of fc2."""
    kernel = _with_shortcut(kernel)
    images, parts = _pieces(x, len(w1))
    for sum_, some in zip(out.split(images), x.split(images), strict=True):
        for part in parts:
            h = _depthwise(_hidden(some, w1[part], b1[part]), kernel[part], bias[part])
            add_product(sum_, torch.ops.aten.gelu_(as_tokens(h)), w2[:, part])


class _Pieces(torch.autograd.Function):
    """The network and its gradients, piece by piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        out = parameters[-1].expand_as(x).clone(memory_format=torch.contiguous_format)
        _add_pieces(out, x, *parameters[:-1])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradients
            return _gradients_of_the_whole(ctx.saved_tensors, ctx.needs_input_grad, grad)
        with torch.autocast('cpu', enabled=False):
            return _gradients(ctx.saved_tensors, grad.contiguous())


def _gradients(saved: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Of x and of the parameters, in their order, from that of the result."""
    x, w1, b1, kernel, bias, w2, _ = saved
    kernel = _with_shortcut(kernel)
    found = of_x, of_w1, of_b1, of_kernel, of_bias, of_w2 = tuple(
        torch.zeros_like(t) for t in (x, w1, b1, kernel, bias, w2)
    )
    images, parts = _pieces(x, len(w1))
    pieces = (t.split(images) for t in (x, grad, of_x))
    for some, above, below in zip(*pieces, strict=True):
        for part in parts:
            h = _hidden(some, w1[part], b1[part])
            p = as_tokens(_depthwise(h, kernel[part], bias[part]))
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
    h = _depthwise(as_image(F.linear(x, w1, b1)), _with_shortcut(kernel), bias)
    out = F.linear(F.gelu(as_tokens(h)), w2, b2)
    inputs = [t for t, needed in zip(saved, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)
