"""The goals of this project's speed, measured in one go: what ``make bench`` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from .clock import Spread
from .contestants import Setting
from .race import Progress, race, silent
from .report import columns

#: The setting of every goal that says nothing else.
SETTING = Setting(mode='infer', batch=4, height=224, width=224, dtype='fp32', device='cpu')

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
    measured: Optional[Spread]
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


def measure(rounds: int, threads: int, progress: Progress = silent) -> Iterator[Goal]:
    """Measure the goals on the CPU, one after the other, the two sides of each in turn."""
    for model in dict.fromkeys(model for model, *_ in INFERENCE):
        pairs = [(other, floor, aim) for m, other, floor, aim in INFERENCE if m == model]
        found = race([model, *(p[0] for p in pairs)], SETTING, rounds, threads, progress)
        for other, floor, aim in pairs:
            yield Goal(
                f'{model}: times as fast as {other}', found.speedup(model, other), floor, aim
            )
        if model == 'paca_small':
            share = found.share(model)
            assert share is not None
            yield Goal(
                "paca_small: share of the machine's matrix product",
                Spread(share, share, share), 0.75, 0.9,
            )  # fmt: skip

    train = replace(SETTING, mode='train')
    pair = 'paca_small', 'paca_small+plain'
    found = race(pair, train, max(rounds // 2, 1), threads, progress)
    yield Goal('training step: times as fast as plain', found.speedup(*pair), 2, 3)
    ratio = (found.peaks[pair[0]] or 0) / (found.peaks[pair[1]] or 1)
    yield Goal(
        'training step: peak memory over plain', Spread(ratio, ratio, ratio), 0.65, 0.5, less=True
    )

    stages = {
        str(side): ('paca_small+stages123', replace(SETTING, batch=1, height=side, width=side))
        for side in (512, 1024)
    }
    found = race(stages, SETTING, max(rounds // 2, 1), threads, progress)
    yield Goal(
        'stages 1 to 3: time at 1024x1024 over 512x512',
        found.speedup('512', '1024'), 4.3, 4.0, less=True,
    )  # fmt: skip

    head = replace(SETTING, batch=1, height=512, width=512)
    found = race(('head', 'head+plain'), head, rounds, threads, progress)
    yield Goal(
        'PaCa head at 512x512: times as fast as plain', found.speedup('head', 'head+plain'), 2, 3
    )

    pair = 'paca_small+compile', 'paca_small'
    found = race(pair, SETTING, rounds, threads, progress)
    yield Goal('torch.compile: times as fast as eager', found.speedup(*pair), 1.25, 1.5)

    bf16 = None
    if _has_bf16():
        pair = 'paca_small+bf16', 'paca_small'
        bf16 = race(pair, SETTING, rounds, threads, progress).speedup(*pair)
    yield Goal(
        'bf16: times as fast as fp32', bf16, 1.8, 2.2, note='no bf16 instructions in this processor'
    )


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    info = Path('/proc/cpuinfo')
    words = set(info.read_text().split()) if info.exists() else set()
    return bool(words & {'avx512_bf16', 'amx_bf16', 'bf16'})


def table(goals: list[Goal]) -> str:
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
