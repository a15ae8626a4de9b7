"""Weights that are numbers: a training that has diverged leaves NaN and infinity behind."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paca_mm.errors import UserError, some_of

#: How the names end of what may be infinite in a good model: masks of attention, and a quantiser's
#: bounds before it has seen anything.
_MAY_BE_INFINITE = ('mask', 'min_val', 'max_val')


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity, in their order.

    Each is read once and not copied: its least and its greatest value are NaN as soon as one value is.
    What is no tensor of floating-point numbers is passed over.

    Args:
        state: A state dict.
    """
    extremes = {name: _extremes(value) for name, value in state.items() if _is_read(value)}
    if not extremes:
        return []
    found = torch.stack([value.cpu().double() for value in extremes.values()])  # (tensors, 2)
    nan, infinite = found.isnan().any(1).tolist(), found.isinf().any(1).tolist()
    return [
        name
        for name, is_nan, is_infinite in zip(extremes, nan, infinite, strict=True)
        if is_nan or (is_infinite and not name.endswith(_MAY_BE_INFINITE))
    ]


def check_finite(state: Mapping[str, Any], source: str | os.PathLike) -> None:
    """Nothing, if all weights are numbers.

    Args:
        state: A state dict.
        source: Where it came from, for the message.

    Raises:
        UserError: Some are NaN or infinite; the message counts them and names the first.
    """
    if bad := not_finite(state):
        hold = 'holds' if len(bad) == 1 else 'hold'
        raise UserError(
            f'{source} is of no use: {len(bad)} of its {len(state)} tensors {hold} NaN or infinity '
            f'({some_of(bad, 3)}), as a training that has diverged leaves them.\n'
            '  to fix it: take an earlier checkpoint of that training (--resume takes the newest good '
            'one), or one of another.'
        )


def _is_read(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and (value.is_floating_point() or value.is_complex())
        and value.layout == torch.strided
        and not value.is_meta
        and value.numel() > 0
    )


def _extremes(value: Tensor) -> Tensor:
    """The least and the greatest value of a tensor, (2,)."""
    value = torch.view_as_real(value) if value.is_complex() else value
    if value.dtype not in (torch.float32, torch.float64):  # halves and quarters, one at a time
        value = value.float()
    return torch.stack(torch.aminmax(value.detach()))
