"""Computing in float32 where half precision cannot hold what comes out."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .fast_paths import is_compiling


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is: sums over many positions overflow in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which autocast changes no operation on the device of ``x``.

    Some devices have no autocast (``meta`` among them), and torch raises if they are named.
    """
    if is_compiling():
        return torch.autocast(x.device.type, enabled=False)
    try:
        return torch.autocast(x.device.type, enabled=False)
    except RuntimeError:
        return nullcontext()
