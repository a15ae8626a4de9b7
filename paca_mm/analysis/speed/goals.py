"""The targets of this project's speed, measured in one run: what ``make bench`` prints.

Beside each figure stands the most that this machine could give, and so whether the target is within
its reach. Nothing is faster than its matrix products, and these no faster than one large matrix
product, which is timed in the same rounds: the speed over another model is limited by the share of
the step that they would take at that rate. It is a bound, not a promise: norms, activations and
copies take their time too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..tables import columns
from .clock import Spread
from .race import Progress, race, silent
from .steps import Setting

#: The setting of every goal that says nothing else.
SETTING = Setting(mode='infer', batch=4, height=224, width=224, dtype='fp32', device='cpu')

#: Seconds that all of it may take, if three rounds fit in.
LIMIT_S = 105

#: Times as fast in inference: model, another, target and stretch target.
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
    """A figure, the target that it must reach and the better one behind it.

    Attributes:
        measured: Median and spread; None where this machine cannot measure it, and ``note`` says why.
        limit: The best figure that this machine could give; None where nothing tells.
        less: Whether less is better.
    """

    text: str
    measured: Spread | None
    target: float
    stretch: float
    limit: float | None = None
    less: bool = False
    note: str = ''

    @property
    def verdict(self) -> str:
        """What was reached and, if it is less than the target, whether it could be."""
        if self.measured is None:
            return self.note
        if self._clears(self.measured.median, self.stretch):
            return 'stretch target met'
        if self._clears(self.measured.median, self.target):
            return 'met'
        if self.limit is not None and not self._clears(self.limit, self.target):
            return 'not met, out of reach of this machine'
        return 'not met'

    def _clears(self, figure: float, bar: float) -> bool:
        return figure <= bar if self.less else figure >= bar


def measure(
    rounds: int,
    threads: int,
    progress: Progress = silent,
    plan: Mapping[str, tuple[str, Setting]] | None = None,
) -> list[Goal]:
    """Measure the targets on the CPU: everything that any of them compares, in one run.

    It ends after three rounds or more, as many as two minutes hold.

    Args:
        plan: What takes part, by the name that the targets know it by (default: :func:`entries`).
    """
    found = race(dict(plan or entries()), SETTING, rounds, threads, progress, limit_s=LIMIT_S)

    def times(text: str, model: str, other: str, target: float, stretch: float) -> Goal:
        speed, share = found.speedup(model, other), found.share(model)
        return Goal(text, speed, target, stretch, share and speed.median / share)

    share = found.share('paca_small')
    assert share is not None
    peak, plain = (found.peaks[name] for name in ('train', 'train+plain'))
    bf16 = 'bf16: times as fast as fp32'
    return [
        *(times(f'{a}: times as fast as {b}', a, b, *bars) for a, b, *bars in INFERENCE),
        Goal("paca_small: share of the machine's matrix product", _figure(share), 0.75, 0.9, 1.0),
        times('training step: times as fast as plain', 'train', 'train+plain', 1.0, 1.3),
        Goal(
            'training step: peak memory over plain', _figure(peak / plain) if peak and plain else None,
            0.75, 0.5, less=True, note='this system does not tell',
        ),
        times(
            'training step at 512x512: times as fast as plain', 'train 512', 'train 512+plain',
            1.05, 1.5,
        ),
        Goal(
            'stages 1 to 3: time at 1024x1024 over 512x512', found.speedup('stages 512', 'stages 1024'),
            4.3, 4.0, less=True,
        ),
        times('PaCa head at 512x512: times as fast as plain', 'head', 'head+plain', 2, 3),
        times('torch.compile, by blocks: times as fast as eager', 'compiled', 'paca_small', 1.25, 1.5),
        times(bf16, 'bf16', 'paca_small', 1.8, 2.2)
        if 'bf16' in found.facts
        else Goal(bf16, None, 1.8, 2.2, note='no bf16 instructions in this processor'),
    ]  # fmt: skip


def entries() -> dict[str, tuple[str, Setting]]:
    """What takes part, by the name that the targets know it by."""
    train = replace(SETTING, mode='train')
    large = replace(SETTING, batch=1, height=512, width=512)
    found = {'compiled': ('paca_small+blocks', SETTING)}  # it takes longest to get ready
    for a, b, *_ in INFERENCE:
        found |= {a: (a, SETTING), b: (b, SETTING)}
    if _has_bf16():
        found['bf16'] = ('paca_small+bf16', SETTING)
    for side in (512, 1024):
        stages = replace(SETTING, batch=1, height=side, width=side)
        found[f'stages {side}'] = ('paca_small+stages123', stages)
    return {
        **found,
        'train': ('paca_small', train),
        'train+plain': ('paca_small+plain', train),
        'train 512': ('paca_small', replace(large, mode='train')),
        'train 512+plain': ('paca_small+plain', replace(large, mode='train')),
        'head': ('head', large),
        'head+plain': ('head+plain', large),
    }


def _figure(value: float) -> Spread:
    return Spread(value, value, value)


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    info = Path('/proc/cpuinfo')
    words = set(info.read_text().split()) if info.exists() else set()
    return bool(words & {'avx512_bf16', 'amx_bf16', 'bf16'})


def table(goals: Sequence[Goal]) -> str:
    """The targets as aligned columns, and below them what limits this machine."""
    lines = [
        ['PaCa-ViT on this machine', 'measured', '10-90 %', 'target', 'stretch', 'limit', 'result']
    ]
    for g in goals:
        measured = spread = '-'
        if g.measured is not None:
            measured = f'{g.measured.median:.2f}'
            if g.measured.low < g.measured.high:
                spread = f'{g.measured.low:.2f}-{g.measured.high:.2f}'
        limit = '-' if g.limit is None else f'{g.limit:.2f}'
        bars = [f'{g.target:.2f}', f'{g.stretch:.2f}']
        lines.append([g.text, measured, spread, *bars, limit, g.verdict])
    missed = [g for g in goals if 'not met' in g.verdict]
    unreachable = [g.text for g in missed if 'out of reach' in g.verdict]
    possible = [g.text for g in missed if 'out of reach' not in g.verdict]
    return '\n'.join(
        [
            columns(lines),
            '',
            'limit: what would be left if a step took no longer than its matrix products at the rate '
            'of one large product, timed in the same rounds.',
            f'instructions that torch uses here: {_instructions()}. The faster the products, the more '
            'of a step is other work.',
            f'out of reach of this machine: {"; ".join(unreachable) or "nothing"}.',
            f'not met, though the limit allows it: {"; ".join(possible) or "nothing"}.',
        ]
    )


def _instructions() -> str:
    """AVX2 or AVX512, say; older torches name nothing."""
    name = getattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'unknown')()
    return name + (', with bf16' if _has_bf16() else '')
