"""Recomputing a layer in the backward pass, with BatchNorms that count a batch once."""

from contextlib import nullcontext
from typing import Any

import torch.nn as nn
import torch.utils.checkpoint as cp
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


def recomputed(layer: nn.Module, *inputs: Tensor) -> Any:
    """``layer(*inputs)``, of which only the inputs are kept for the backward pass.

    The layer runs twice in a step. Its running statistics see the batch once, so that they too are
    what they would be without recomputing.
    """
    norms = [m for m in layer.modules() if isinstance(m, _BatchNorm) and m.training]
    return cp.checkpoint(
        layer,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), StatisticsKept(norms)),
    )


class StatisticsKept:
    """A context in which BatchNorms leave their running statistics alone.

    It can be entered again: a graph that is kept may be run backward twice.
    """

    def __init__(self, norms: list[Any]) -> None:
        counted = (norm for norm in norms if hasattr(norm, 'num_batches_tracked'))
        self.norms = [norm for norm in counted if norm.num_batches_tracked is not None]

    def __enter__(self) -> None:
        self.was = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.was, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
