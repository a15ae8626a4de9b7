"""Seconds, and what to say about many of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from paca_mm.errors import UserError

from .steps import DTYPES

#: The name of a large matrix product among contestants: what the machine can do at best.
MATMUL = 'matmul'


@dataclass(frozen=True)
class Spread:
    """A median, and how far the middle 80 % reach around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> 'Spread':
        values = sorted(values)
        last = len(values) - 1
        return cls(statistics.median(values), values[round(0.1 * last)], values[round(0.9 * last)])


def ratios(seconds: list[float], baseline: list[float]) -> Spread:
    """How many times as fast as the baseline, round against round."""
    return Spread.of([b / s for s, b in zip(seconds, baseline, strict=True)])


def need(device: str) -> None:
    """See that a device is there.

    Raises:
        UserError: There is no GPU that torch could use.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; leave it out to run on the CPU.')


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run: between two events on CUDA, elsewhere of the clock on the wall."""
    if device.type == 'cuda':
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    begin_s = time.perf_counter()
    run()
    return time.perf_counter() - begin_s


def matmul(device: torch.device, dtype: str) -> tuple[Callable[[], object], int]:
    """A large matrix product and its multiply-accumulates."""
    side = 2048 if device.type == 'cpu' else 8192
    a, b = (torch.randn(side, side, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), side**3
