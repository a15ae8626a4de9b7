"""Models side by side: contestants, a setting and rounds in, figures out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paca_mm.errors import UserError

from .clock import MATMUL, Spread, need, ratios
from .contestants import Facts, is_another_network
from .peers import PEERS
from .results import Row
from .steps import Setting
from .worker import RunnerProcess

Progress = Callable[[str], None]


def silent(text: str) -> None:
    """No progress shown."""


@dataclass
class Race:
    """What was measured, by name.

    Attributes:
        seconds: Of every step, round by round.
        peaks: MiB that the first step took beyond the weights.
        rates: The machine's multiply-accumulates per second, by precision: a large matrix product in
            the same rounds.
    """

    facts: dict[str, Facts]
    seconds: dict[str, list[float]]
    peaks: dict[str, float | None]
    rates: dict[str, float]

    def speedup(self, name: str, over: str) -> Spread:
        """How many times as fast one is as the other."""
        return ratios(self.seconds[name], self.seconds[over])

    def share(self, name: str) -> float | None:
        """Products per second over the machine's; a training step counts as three forward passes."""
        facts = self.facts[name]
        if facts.macs is None:
            return None
        macs = facts.macs * facts.setting.batch * (3 if facts.setting.mode == 'train' else 1)
        return macs / Spread.of(self.seconds[name]).median / self.rates[facts.setting.dtype]

    def rows(self, baseline: str) -> list[Row]:
        """A line a contestant."""
        return [self._row(name, baseline) for name in self.facts]

    def _row(self, name: str, baseline: str) -> Row:
        facts, s = self.facts[name], self.facts[name].setting
        spread, ratio = Spread.of(self.seconds[name]), self.speedup(name, baseline)
        return Row(
            name=name,
            mode=s.mode,
            batch=s.batch,
            height=s.height,
            width=s.width,
            dtype=s.dtype,
            compiled=facts.compiled,
            params_m=facts.params / 1e6,
            gmacs=facts.macs and facts.macs / 1e9,
            ms=spread.median * 1e3,
            ms_p10=spread.low * 1e3,
            ms_p90=spread.high * 1e3,
            images_per_s=s.batch / spread.median,
            baseline=baseline,
            ratio=ratio.median,
            ratio_p10=ratio.low,
            ratio_p90=ratio.high,
            share=self.share(name),
            peak_mib=self.peaks[name],
            accuracy=_accuracy(name),
            rounds=len(self.seconds[name]),
        )


def race(
    entries: Sequence[str] | dict[str, tuple[str, Setting]],
    setting: Setting,
    rounds: int,
    threads: int = 1,
    progress: Progress = silent,
    limit_s: float | None = None,
) -> Race:
    """Run models in turn.

    Args:
        entries: Names of :mod:`.contestants`; or what to call each, its name and its own setting.
        setting: What they run on.
        rounds: How often each runs.
        threads: Of a CPU.
        progress: Told what is going on.
        limit_s: Begin no round, after the third, that would end later than so many seconds.

    Raises:
        UserError: A name is unknown or stands there twice, or the device is not to be had.
    """
    if len(set(entries)) < len(entries):
        raise UserError(f'{", ".join(entries)}: every model can take part once.')
    need(setting.device)
    if not isinstance(entries, dict):
        entries = {name: (name, setting) for name in entries}
    start = time.monotonic()
    runners: dict[str, RunnerProcess] = {}
    seconds: dict[str, list[float]] = {}
    try:
        for called, (name, own) in entries.items():
            progress(f'building {called}')
            runners[called] = RunnerProcess(name, own, threads)
        for called, runner in runners.items():
            progress(f'first step of {called}')
            runner.wait()
        facts = {called: runner.facts for called, runner in runners.items()}
        peaks = {called: runner.peak for called, runner in runners.items()}
        for dtype in dict.fromkeys(f.setting.dtype for f in facts.values()):
            called = f'{MATMUL} {dtype}'
            runners[called] = RunnerProcess(MATMUL, replace(setting, dtype=dtype), threads)
            runners[called].wait()
        ready = time.monotonic()
        for i in range(rounds):
            now = time.monotonic()
            if limit_s and i >= 3 and now - start + (now - ready) / i > limit_s:
                break
            for called, runner in runners.items():
                progress(f'round {i + 1} of {rounds}: {called}')
                seconds.setdefault(called, []).append(runner.step())
    finally:
        for runner in runners.values():
            runner.stop()
        for runner in runners.values():
            runner.close()
    rates = {}
    for called in runners.keys() - facts.keys():
        machine = runners[called].facts
        assert machine.macs is not None
        median = Spread.of(seconds.pop(called)).median
        rates[machine.setting.dtype] = machine.macs / median
    return Race(facts, seconds, peaks, rates)


def _accuracy(name: str) -> float | None:
    """The published top-1 accuracy; None for what is no ImageNet classifier of the lists."""
    from paca_mm.zoo.metafiles import metafiles, read_metafile

    if is_another_network(name):
        return None
    name = name.split('+')[0]
    if name in PEERS:
        return PEERS[name].accuracy
    for entry in (entry for file in metafiles('cls') for entry in read_metafile(file)):
        if entry.name == f'{name}_in1k':
            return entry.metrics.get('Top 1 Accuracy')
    return None
