"""Models side by side: contestants, a setting and rounds in, figures out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

import torch

from paca_mm.errors import UserError

from .clock import Spread, matmul, ratios, take_turns
from .contestants import DTYPES, PEERS, Contestant, Setting, make
from .memory import peak_memory
from .report import Row

Progress = Callable[[str], None]


def silent(text: str) -> None:
    """No progress shown."""


@dataclass
class Race:
    """What was measured.

    Attributes:
        contestants: By name.
        seconds: Of every step, round by round.
        rates: The machine's multiply-accumulates per second, by precision: a large matrix product in
            the same rounds.
    """

    contestants: dict[str, Contestant]
    seconds: dict[str, list[float]]
    rates: dict[str, float]

    def speedup(self, name: str, over: str) -> Spread:
        """How many times as fast one is as the other."""
        return ratios(self.seconds[name], self.seconds[over])

    def share(self, name: str) -> Optional[float]:
        """Products per second over the machine's; a training step counts as three forward passes."""
        c = self.contestants[name]
        if c.macs is None:
            return None
        macs = c.macs * c.setting.batch * (3 if c.setting.mode == 'train' else 1)
        return macs / Spread.of(self.seconds[name]).median / self.rates[c.setting.dtype]

    def rows(self, baseline: str, peaks: dict[str, float]) -> list[Row]:
        """A line a contestant; ``peaks`` are MiB by name."""
        return [self._row(name, baseline, peaks.get(name)) for name in self.contestants]

    def _row(self, name: str, baseline: str, peak: Optional[float]) -> Row:
        c, s = self.contestants[name], self.contestants[name].setting
        spread, ratio = Spread.of(self.seconds[name]), self.speedup(name, baseline)
        return Row(
            name=name,
            mode=s.mode,
            batch=s.batch,
            height=s.height,
            width=s.width,
            dtype=s.dtype,
            compiled=c.compiled,
            params_m=c.params / 1e6,
            gmacs=c.macs and c.macs / 1e9,
            ms=spread.median * 1e3,
            ms_p10=spread.low * 1e3,
            ms_p90=spread.high * 1e3,
            pictures_per_s=s.batch / spread.median,
            baseline=baseline,
            ratio=ratio.median,
            ratio_p10=ratio.low,
            ratio_p90=ratio.high,
            share=self.share(name),
            peak_mib=peak,
            accuracy=_accuracy(name),
            rounds=len(self.seconds[name]),
        )


def race(
    names: Sequence[str],
    setting: Setting,
    rounds: int,
    threads: int = 1,
    progress: Progress = silent,
) -> Race:
    """Run models in turn.

    Args:
        names: See :mod:`.contestants`.
        setting: What they run on.
        rounds: How often each runs.
        threads: Of a CPU; they are set for the process.
        progress: Told what is going on.

    Raises:
        UserError: A name is unknown or stands there twice, or the device is not to be had.
    """
    if len(set(names)) < len(names):
        raise UserError(f'{", ".join(names)}: every model can take part once.')
    if setting.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; leave it out to run on the CPU.')
    torch.set_num_threads(threads)
    device = torch.device(setting.device)
    contestants = {}
    for name in names:
        progress(f'building {name}')
        contestants[name] = make(name, setting)
    dtypes = {c.setting.dtype for c in contestants.values()}
    machine = {dtype: matmul(device, DTYPES[dtype]) for dtype in dtypes}
    runs = {name: c.run for name, c in contestants.items()}
    products = {f'matrix product, {dtype}': run for dtype, (run, _) in machine.items()}
    seconds = take_turns(
        runs | products, rounds, device, progress, warmups=3 if device.type == 'cuda' else 1
    )
    rates = {
        dtype: macs / Spread.of(seconds.pop(f'matrix product, {dtype}')).median
        for dtype, (_, macs) in machine.items()
    }
    return Race(contestants, seconds, rates)


def peaks(
    names: Sequence[str], setting: Setting, threads: int, progress: Progress = silent
) -> dict[str, float]:
    """The peak memory of each, MiB."""
    found = {}
    for name in names:
        progress(f'peak memory of {name}')
        found[name] = peak_memory(name, setting, threads)
    return found


def _accuracy(name: str) -> Optional[float]:
    """The published top-1 accuracy; None for what is no ImageNet classifier of the lists."""
    from ..metafiles import read_metafile

    name = name.split('+')[0]
    if name in PEERS:
        return PEERS[name].accuracy
    for entry in read_metafile('cls'):
        if entry.name == f'{name}_in1k':
            return entry.metrics.get('Top 1 Accuracy')
    return None
