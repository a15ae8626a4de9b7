"""The linear part of the angular kernel: what is left of 1 - arccos(q . k) / pi at first order."""

import math

import torch
from torch import Tensor

from ..common.precision import wide, without_autocast


def directions(x: Tensor, eps: float) -> Tensor:
    """Vectors of length 1 along the last dimension, in float32 for half precision.

    A vector shorter than ``eps`` has no direction: it becomes zero and passes no gradient back, where
    a division by its length would give NaN, or numbers that half precision cannot hold. In half
    precision the least length is that of the smallest normal number, below which the entries are
    mostly rounding.

    Args:
        x: (..., d).
        eps: The least length that counts; 0 divides by any, as the official code does.
    """
    long = wide(x)  # the square of 256 is no number in float16
    squares = long.square().sum(-1, keepdim=True)
    if not eps:
        return long * squares.rsqrt()
    least = max(eps, torch.finfo(x.dtype).tiny) ** 2
    directed = squares > least
    return long * (torch.where(directed, squares, torch.ones_like(squares)).rsqrt() * directed)


def linear_angular(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    """``v / 2 + q^ (k^T v) / pi`` with the directions q^ and k^ of queries and keys, O(N d^2).

    The first two terms of Sim(q, k) = 1 - arccos(q^ . k^) / pi. As in the official code the constant
    one half acts on the token's own value, and not on the sum of all values.

    Args:
        q: Queries (B, h, N, d).
        k: Keys (B, h, N, d).
        v: Values (B, h, N, d).
        eps: See :func:`directions`.

    Returns:
        (B, h, N, d); in float32 for half precision, whose sums over many tokens would overflow.
    """
    with without_autocast(q):
        v = wide(v)
        summary = directions(k, eps).transpose(-2, -1) @ v  # B, h, d, d
        return 0.5 * v + directions(q, eps) @ (summary / math.pi)
