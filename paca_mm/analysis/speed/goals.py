"""The goals of this project's speed, measured in one go: what ``make bench`` prints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..tables import columns
from .clock import Spread
from .race import Progress, race, silent
from .steps import Setting

#: The setting of every goal that says nothing else.
SETTING = Setting(mode='infer', batch=4, height=224, width=224, dtype='fp32', device='cpu')

#: Seconds that all of it may take, if three rounds fit in.
LIMIT_S = 105

#: Times as fast in inference: model, another, floor and aim.
INFERENCE = (
    ('paca_small', 'swin_s', 1.5, 1.8),
    ('paca_small', 'pvtv2_b3', 1.55, 1.8),
    ('paca_small', 'convnext_s', 1.35, 1.6),
    ('paca_small', 'paca_small+plain', 1.8, 2.5),
    ('paca_tiny', 'swin_t', 1.35, 1.6),
    ('paca_tiny', 'pvtv2_b2', 1.5, 1.8),
)


@dataclass(frozen=True)
class Goal:
    """A figure, the floor that it must clear and the aim behind it.

    Attributes:
        measured: Median and spread; None where this machine cannot measure it, and ``note`` says why.
        less: Whether less is better.
    """

    text: str
    measured: Spread | None
    floor: float
    aim: float
    less: bool = False
    note: str = ''

    @property
    def verdict(self) -> str:
        """What was reached."""
        if self.measured is None:
            return self.note
        found, floor, aim = (
            x * (-1 if self.less else 1) for x in (self.measured.median, self.floor, self.aim)
        )
        return 'aim' if found >= aim else 'floor' if found >= floor else 'below the floor'


def measure(rounds: int, threads: int, progress: Progress = silent) -> list[Goal]:
    """Measure the goals on the CPU: everything that any of them compares, in one run.

    It ends after three rounds or more, as many as two minutes hold.
    """
    found = race(_entries(), SETTING, rounds, threads, progress, limit_s=LIMIT_S)

    def times(text: str, model: str, other: str, floor: float, aim: float, **kwargs: Any) -> Goal:
        return Goal(text, found.speedup(model, other), floor, aim, **kwargs)

    share = found.share('paca_small')
    assert share is not None
    peak, plain = (found.peaks[name] for name in ('train', 'train+plain'))
    bf16 = 'bf16: times as fast as fp32'
    return [
        *(times(f'{a}: times as fast as {b}', a, b, *goal) for a, b, *goal in INFERENCE),
        Goal("paca_small: share of the machine's matrix product", _figure(share), 0.75, 0.9),
        times('training step: times as fast as plain', 'train', 'train+plain', 2, 3),
        Goal(
            'training step: peak memory over plain', _figure(peak / plain) if peak and plain else None,
            0.65, 0.5, less=True, note='this system does not tell',
        ),
        times(
            'stages 1 to 3: time at 1024x1024 over 512x512', 'stages 512', 'stages 1024', 4.3, 4.0,
            less=True,
        ),
        times('PaCa head at 512x512: times as fast as plain', 'head', 'head+plain', 2, 3),
        times('torch.compile, by blocks: times as fast as eager', 'compiled', 'paca_small', 1.25, 1.5),
        times(bf16, 'bf16', 'paca_small', 1.8, 2.2)
        if 'bf16' in found.facts
        else Goal(bf16, None, 1.8, 2.2, note='no bf16 instructions in this processor'),
    ]  # fmt: skip


def _entries() -> dict[str, tuple[str, Setting]]:
    """What takes part, by the name that the goals know it by."""
    train = replace(SETTING, mode='train')
    head = replace(SETTING, batch=1, height=512, width=512)
    entries = {'compiled': ('paca_small+blocks', SETTING)}  # it takes longest to get ready
    for a, b, *_ in INFERENCE:
        entries |= {a: (a, SETTING), b: (b, SETTING)}
    if _has_bf16():
        entries['bf16'] = ('paca_small+bf16', SETTING)
    for side in (512, 1024):
        stages = replace(SETTING, batch=1, height=side, width=side)
        entries[f'stages {side}'] = ('paca_small+stages123', stages)
    return {
        **entries,
        'train': ('paca_small', train),
        'train+plain': ('paca_small+plain', train),
        'head': ('head', head),
        'head+plain': ('head+plain', head),
    }


def _figure(value: float) -> Spread:
    return Spread(value, value, value)


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    info = Path('/proc/cpuinfo')
    words = set(info.read_text().split()) if info.exists() else set()
    return bool(words & {'avx512_bf16', 'amx_bf16', 'bf16'})


def table(goals: Sequence[Goal]) -> str:
    """The goals as aligned columns."""
    lines = [['PaCa-ViT on this machine', 'measured', '10-90 %', 'floor', 'aim', 'reached']]
    for g in goals:
        measured = spread = '-'
        if g.measured is not None:
            measured = f'{g.measured.median:.2f}'
            if g.measured.low < g.measured.high:
                spread = f'{g.measured.low:.2f}-{g.measured.high:.2f}'
        lines.append([g.text, measured, spread, f'{g.floor:.2f}', f'{g.aim:.2f}', g.verdict])
    return columns(lines)
