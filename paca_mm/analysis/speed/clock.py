"""Timing things in turn, so that a noisy machine hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

#: Side of the square matrices of the machine's own rate.
MATMUL_SIDE = {'cpu': 2048, 'cuda': 8192}


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
        return cls(
            statistics.median(values), values[round(0.1 * last)], values[round(0.9 * last)]
        )


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda text: None,
    warmups: int = 1,
) -> dict[str, list[float]]:
    """Run everything once a round, for so many rounds.

    Returns:
        Seconds of every run, round by round. On CUDA they are those between two events on the
        device, elsewhere of the clock on the wall.
    """
    for name, run in runs.items():
        progress(f'warming up {name}')
        for _ in range(warmups):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name, run in runs.items():
            progress(f'round {i + 1} of {rounds}: {name}')
            seconds[name].append(_seconds(run, device))
    return seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
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


def ratios(seconds: list[float], baseline: list[float]) -> Spread:
    """How many times as fast as the baseline, round against round."""
    return Spread.of([b / s for s, b in zip(seconds, baseline, strict=True)])


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A large matrix product and its multiply-accumulates: what the machine can do at best."""
    side = MATMUL_SIDE.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), side**3
