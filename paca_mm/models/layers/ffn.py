"""The feed-forward network of a block: linear, depthwise 3x3 with a shortcut around it, GELU, linear.

Its hidden map is four times as wide as anything else in a block, and until the last linear layer
nothing in it crosses channels. So on a CPU a large one is made a few channels (of a few pictures) at a
time, in memory that stays in the cache, and each piece is multiplied into the sum at once; for the
backward pass only the input is kept, and the pieces are made again. docs/performance.md has the
figures.
"""

from functools import cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .downsample import as_picture, as_tokens

#: Bytes that a piece of the hidden map may take.
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
        if self.in_pieces(x) and len(_pieces(x, self.fc1.out_features)[1]) > 1:
            return _Pieces.apply(x, *self._parameters_in_order())
        h = as_picture(self.fc1(x))
        # x + dwconv(x), with the shortcut as a one in the middle of the kernel: the same sum, and
        # one pass over the hidden map instead of two.
        kernel = _with_shortcut(self.dwconv.weight)
        h = F.conv2d(h, kernel, self.dwconv.bias, padding=1, groups=self.dwconv.groups)
        return self.fc2(F.gelu(as_tokens(h)))

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """``out += forward(x)`` in place, where :meth:`in_pieces` and no gradient is wanted."""
        out += self.fc2.bias
        _add_pieces(out, x, *self._parameters_in_order()[:-1])

    def _parameters_in_order(self) -> tuple[Tensor, ...]:
        layers = (self.fc1, self.dwconv, self.fc2)
        return tuple(p for layer in layers for p in (layer.weight, layer.bias))

    def in_pieces(self, x: Tensor) -> bool:
        """Whether to work piece by piece: eagerly and without autocast on a CPU, and only where
        nobody is to see or to change what a layer does.

        A GPU would only see more and smaller kernels, and torch.compile plans its memory by itself.
        """
        return is_eager_on_cpu(x) and is_bare(self.fc1, self.dwconv, self.fc2)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether the tensor's kernels run one by one, now, on a CPU, in the tensor's own precision."""
    watched = is_compiling() or torch.jit.is_tracing()
    return x.device.type == 'cpu' and not watched and not _is_autocast()


def is_bare(*modules: nn.Module) -> bool:
    """Whether the modules are torch's or this package's own and calling one only runs its forward.

    A hook, a replaced forward or a stand-in (LoRA, a quantised layer) must not be passed by.
    """
    return all(
        type(m).__module__.startswith(_OWN)
        and not (m._forward_hooks or m._forward_pre_hooks or 'forward' in m.__dict__)
        for m in modules
    )


_OWN = ('torch.nn.modules.linear', 'torch.nn.modules.conv', 'paca_mm.models.layers')


def _is_autocast() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # torch 2.3 and older
        return torch.is_autocast_cpu_enabled()


#: Whether torch.compile is looking; torch 2.1 has it elsewhere.
is_compiling = getattr(torch.compiler, 'is_compiling', torch._utils.is_compiling)


def add_product(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """``out += x @ weight.T`` of tokens (..., C), in place."""
    out.flatten(0, -2).addmm_(x.flatten(0, -2), weight.t())


def _with_shortcut(kernel: Tensor) -> Tensor:
    """The kernel of x + dwconv(x), (C, 1, 3, 3): a one is added in the middle."""
    return kernel + F.pad(kernel.new_ones(1, 1, 1, 1), (1, 1, 1, 1))


def _pieces(x: Tensor, hidden: int) -> tuple[int, list[slice]]:
    """How many pictures to take at a time, and which of the hidden channels."""
    _keep_freed_memory()
    position = x.shape[1] * x.shape[2] * x.element_size()  # one channel of one picture
    pictures = max(min(PIECE_BYTES // (128 * position), len(x)), 1)
    channels = max(PIECE_BYTES // (pictures * position), 64)
    count = -(-hidden // channels)
    channels = -(-hidden // (16 * count)) * 16
    return pictures, [slice(i, min(i + channels, hidden)) for i in range(0, hidden, channels)]


@cache
def _keep_freed_memory() -> None:
    """Make freed blocks of up to 32 MiB stay with the process, for the next piece.

    glibc returns larger blocks than the largest it has seen freed to the system, which has to clear
    every page before the next step gets it back (mallopt(3), M_MMAP_THRESHOLD: the threshold adjusts
    itself). So it is shown the largest block it will learn from; nothing is ever written to it.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8, device='cpu')


def _hidden(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    """fc1 of tokens (B, H, W, C), as a channels-last picture (B, c, H, W).

    As a convolution, which adds the bias as it goes; a linear layer writes the bias first.
    """
    return F.conv2d(as_picture(x), w1[..., None, None], b1)


def _depthwise(h: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(B, c, H, W) -> (B, H, W, c)."""
    return as_tokens(F.conv2d(h, kernel, bias, padding=1, groups=len(kernel)))


def _add_pieces(
    out: Tensor, x: Tensor, w1: Tensor, b1: Tensor, kernel: Tensor, bias: Tensor, w2: Tensor
) -> None:
    """``out += fc2(hidden(x))`` but for the bias of fc2."""
    kernel = _with_shortcut(kernel)
    pictures, parts = _pieces(x, len(w1))
    for sum_, some in zip(out.split(pictures), x.split(pictures), strict=True):
        for part in parts:
            h = _depthwise(_hidden(some, w1[part], b1[part]), kernel[part], bias[part])
            add_product(sum_, torch.ops.aten.gelu_(h), w2[:, part])


class _Pieces(torch.autograd.Function):
    """The network and its gradients, piece by piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        out = parameters[-1].expand_as(x).clone(memory_format=torch.contiguous_format)
        _add_pieces(out, x, *parameters[:-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, kernel, bias, w2, _ = ctx.saved_tensors
        kernel = _with_shortcut(kernel)
        grad = grad.contiguous()
        of_x, of_w1, of_b1, of_kernel, of_bias, of_w2 = (
            torch.zeros_like(t) for t in (x, w1, b1, kernel, bias, w2)
        )
        pictures, parts = _pieces(x, len(w1))
        pieces = (t.split(pictures) for t in (x, grad, of_x))
        for some, above, below in zip(*pieces, strict=True):
            for part in parts:
                h = _hidden(some, w1[part], b1[part])
                p = _depthwise(h, kernel[part], bias[part])
                of_w2[:, part].addmm_(above.flatten(0, 2).t(), F.gelu(p).flatten(0, 2))
                of_p = above @ w2[:, part]
                torch.ops.aten.gelu_backward.grad_input(of_p, p, grad_input=of_p)
                of_h, k, b = torch.ops.aten.convolution_backward(
                    as_picture(of_p), h, kernel[part], [h.shape[1]],
                    (1, 1), (1, 1), (1, 1), False, (0, 0), h.shape[1], (True, True, True),
                )  # fmt: skip
                of_kernel[part] += k
                of_bias[part] += b
                of_h = as_tokens(of_h).flatten(0, 2)
                of_w1[part].addmm_(of_h.t(), some.flatten(0, 2))
                of_b1[part] += of_h.sum(0)
                below.flatten(0, 2).addmm_(of_h, w1[part])
        return of_x, of_w1, of_b1, of_kernel, of_bias, of_w2, grad.sum((0, 1, 2))
