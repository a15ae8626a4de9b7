"""What was measured, as a table to read, a CSV file to keep, and plots."""

import csv
import datetime
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import torch

from paca_mm.errors import UserError

from ..tables import columns
from .clock import need


@dataclass(frozen=True)
class Conditions:
    """Under which a measurement was made; every line of the CSV repeats them."""

    device: str
    threads: int
    torch: str
    python: str
    date: str
    command: str

    @classmethod
    def now(cls, device: str, threads: int) -> 'Conditions':
        need(device)
        return cls(
            device=torch.cuda.get_device_name() if device == 'cuda' else _processor(),
            threads=threads,
            torch=torch.__version__,
            python=platform.python_version(),
            date=datetime.date.today().isoformat(),
            command=' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )

    def __str__(self) -> str:
        return (
            f'{self.device}, {self.threads} threads, torch {self.torch}, Python {self.python}, '
            f'{self.date}'
        )


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The processor's name and how many of its cores this machine has."""
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
        name = names[0] if names else name
    return f'{name}, {cores()} cores'


@dataclass(frozen=True)
class Row:
    """One contestant at one setting.

    Attributes:
        ms, ms_p10, ms_p90: Milliseconds a step: median, 10th and 90th percentile of the rounds.
        ratio, ratio_p10, ratio_p90: How many times as fast as the baseline, round against round.
        gmacs: Of the forward pass of one image.
        share: Products per second over those of a large matrix product in the same rounds; a
            training step counts as three forward passes.
        peak_mib: Memory of a step beyond the weights.
        accuracy: ImageNet top-1, as published.
    """

    name: str
    mode: str
    batch: int
    height: int
    width: int
    dtype: str
    compiled: bool
    params_m: float
    gmacs: float | None
    ms: float
    ms_p10: float
    ms_p90: float
    images_per_s: float
    baseline: str
    ratio: float
    ratio_p10: float
    ratio_p90: float
    share: float | None
    peak_mib: float | None
    accuracy: float | None
    rounds: int


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned columns, fastest first within a setting."""
    baseline = rows[0].baseline
    heads = ['model', 'mode', 'batch', 'image', 'dtype', 'params M', 'GMACs', 'ms', '10-90 %',
             'images/s', f'x {baseline}', '10-90 %', 'share', 'peak MiB']  # fmt: skip
    lines = [heads]
    lines.extend(
        [
            r.name,
            r.mode,
            str(r.batch),
            f'{r.height}x{r.width}',
            r.dtype,
            f'{r.params_m:.1f}',
            _or_dash(r.gmacs, '.2f'),
            f'{r.ms:.1f}',
            f'{r.ms_p10:.0f}-{r.ms_p90:.0f}',
            f'{r.images_per_s:.1f}',
            f'{r.ratio:.2f}',
            f'{r.ratio_p10:.2f}-{r.ratio_p90:.2f}',
            _or_dash(r.share, '.2f'),
            _or_dash(r.peak_mib, '.0f'),
        ]
        for r in sorted(rows, key=lambda r: (r.mode, r.height * r.width, r.ms))
    )
    return columns(lines)


def _or_dash(value: float | None, spec: str) -> str:
    return '-' if value is None else format(value, spec)


def file_name(conditions: Conditions, rows: Sequence[Row]) -> str:
    """A name that carries the conditions: date, device, modes, images, precision, threads."""
    device = re.sub(r'[^\w.]+', '-', conditions.device.partition(',')[0].lower())

    def words(values: Any) -> str:
        return '+'.join(dict.fromkeys(str(v) for v in values))

    parts = [
        conditions.date,
        device,
        words(r.mode for r in rows),
        f'b{words(r.batch for r in rows)}',
        words(f'{r.height}x{r.width}' for r in rows),
        words(r.dtype for r in rows),
        f't{conditions.threads}',
    ]
    return '_'.join(parts)


def save(rows: Sequence[Row], conditions: Conditions, folder: Path, name: str) -> Path:
    """Write the rows as CSV, the conditions in every line; what was saved before stays.

    Raises:
        UserError: The folder cannot be written.
    """
    file = folder / f'{name}.csv'
    for i in count(2):
        if not file.exists():
            break
        file = folder / f'{name}_{i}.csv'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open('w', newline='') as f:
            writer = csv.DictWriter(f, [x.name for x in (*fields(Row), *fields(Conditions))])
            writer.writeheader()
            for row in rows:
                values = {
                    k: f'{v:.4g}' if isinstance(v, float) else v for k, v in asdict(row).items()
                }
                writer.writerow({**values, **asdict(conditions)})
    except OSError as e:
        raise UserError(f'{file} cannot be written ({e.strerror}): choose another --out.') from e
    return file


def plot(rows: Sequence[Row], conditions: Conditions, file: Path) -> list[Path]:
    """Time against the image's size where there are several, accuracy against time where known.

    Args:
        file: The CSV file of the rows, beside which the plots are put.
    """
    import matplotlib

    matplotlib.use('agg')
    files = []
    modes = dict.fromkeys(r.mode for r in rows)
    for mode in modes:
        of_mode = [r for r in rows if r.mode == mode]
        which = f'{mode}_' if len(modes) > 1 else ''
        if len({(r.height, r.width) for r in of_mode}) > 1:
            files.append(
                _plot_sizes(of_mode, conditions, file.with_name(f'{file.stem}_{which}size.png'))
            )
        smallest = min(r.height * r.width for r in of_mode)
        scored = [r for r in of_mode if r.accuracy and r.height * r.width == smallest]
        if len({r.name.split('+')[0] for r in scored}) > 1:
            files.append(
                _plot_accuracy(
                    scored, conditions, file.with_name(f'{file.stem}_{which}accuracy.png')
                )
            )
    return files


#: Ours in one colour, the yardstick of the same weights in grey, the others by family.
_COLOURS = {'paca': '#c1272d', 'swin': '#1f77b4', 'convnext': '#2ca02c', 'pvtv2': '#e08a00'}


def _colour(name: str) -> str:
    if '+plain' in name:
        return '#777777'
    return next((c for key, c in _COLOURS.items() if key in name), '#8c6bb1')


def _axes(conditions: Conditions, row: Row, title: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout='constrained')
    step = 'inference' if row.mode == 'infer' else 'training step (forward and backward)'
    axes.set_title(f'{title}\n{step}, batch {row.batch}, {row.dtype}', fontsize=11, loc='left')
    figure.supxlabel(str(conditions), fontsize=7, color='#666666')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _plot_sizes(rows: Sequence[Row], conditions: Conditions, file: Path) -> Path:
    figure, axes = _axes(conditions, rows[0], "Time against the image's size")
    for i, name in enumerate(dict.fromkeys(r.name for r in rows)):
        line = sorted((r for r in rows if r.name == name), key=lambda r: r.height * r.width)
        x = [r.height * r.width / 1e6 for r in line]
        dash = '--' if '+plain' in name else '-'
        axes.plot(
            x, [r.ms for r in line], dash, marker='osD^v'[i % 5], color=_colour(name), label=name
        )
        axes.fill_between(
            x,
            [r.ms_p10 for r in line],
            [r.ms_p90 for r in line],
            color=_colour(name),
            alpha=0.15,
            lw=0,
        )
    axes.set(xlabel='megapixels', ylabel='milliseconds', xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return _store(figure, file)


def _plot_accuracy(rows: Sequence[Row], conditions: Conditions, file: Path) -> Path:
    side = f'{rows[0].height}x{rows[0].width}'
    figure, axes = _axes(
        conditions, rows[0], f'Accuracy (published) against time (measured), {side}'
    )
    families: dict[str, list[Row]] = {}
    for r in rows:
        # paca_small and paca_base are sizes of one family; a variant is a family of its own.
        family = r.name.rpartition('_')[0] if '_' in r.name and '+' not in r.name else r.name
        families.setdefault(family, []).append(r)
    for i, (family, members) in enumerate(families.items()):
        members.sort(key=lambda r: r.ms)
        x, y = [r.ms for r in members], [r.accuracy for r in members]
        bars = [[r.ms - r.ms_p10 for r in members], [r.ms_p90 - r.ms for r in members]]
        colour = _colour(family)
        axes.errorbar(x, y, xerr=bars, fmt='none', ecolor=colour, elinewidth=4, alpha=0.25)
        axes.plot(x, y, '-', color=colour, lw=1, alpha=0.6)
        axes.scatter(x, y, [r.params_m * 2 for r in members], color=colour, label=family, zorder=3)
        above = 1 if i % 2 == 0 else -1
        for r in members:
            label = r.name[len(family) + 1 :]
            distance = 4 + (r.params_m / 2) ** 0.5
            axes.annotate(
                label, (r.ms, r.accuracy), (0, above * distance), textcoords='offset points',
                fontsize=9, color=colour, ha='center', va='bottom' if above > 0 else 'top',
            )  # fmt: skip
    figure.legend(frameon=False, loc='outside right upper', markerscale=0.8, fontsize=9)
    axes.set(xlabel='milliseconds (bar: 10th to 90th percentile; area: parameters)',
             ylabel='ImageNet top-1, %', xlim=(0, None))  # fmt: skip
    scores = [r.accuracy for r in rows if r.accuracy]
    axes.set_ylim(min(scores) - 1, max(scores) + 0.7)  # a tenth of a point is not to look large
    return _store(figure, file)


def _store(figure: Any, file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(file, dpi=130)
    plt.close(figure)
    return file
