"""The work behind ``paca-mm plot-log``: the curves of trainings side by side, drawn and as data."""

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError, did_you_mean, some_of
from paca_mm.files import make_folder, replacing

from .logs import Curve, Run, read_run
from .tables import columns

#: Colours that colour-blind readers tell apart (Okabe and Ito's), in the order of their contrast.
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
_DASHES = ('-', '--', ':', '-.')

#: Metrics that come first, because models are judged by them.
_HEADLINES = ('mIoU', 'accuracy/top1', 'coco/segm_mAP', 'coco/bbox_mAP')


def plot_log(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    runs = named([read_run(path) for path in args.runs], args.runs, args.names)
    names = chosen(runs, args.keys)
    out = make_folder(args.out, '--out')
    print(table(runs, names))
    for run in runs:
        for note in run.notes:
            print(f'note: {run.name}: {note}')
    write_data(runs, names, out)
    draw(runs, names, out / 'curves.png', args.smooth)
    left = [n for run in runs for n in run.curves if n not in names]
    if left := list(dict.fromkeys(left)):
        print(f'not drawn: {some_of(left, 12)} (--keys NAME ... chooses)')
    print(f'plot and numbers: {out / "curves.png"}, {out / "curves.json"}, {out / "curves.csv"}')


def named(
    runs: Sequence[Run], paths: Sequence[str | Path], names: Sequence[str] | None = None
) -> list[Run]:
    """The runs under names that tell them apart.

    Args:
        runs: The runs.
        paths: What each was read from, which is its name where two are called the same.
        names: What the user calls them.

    Raises:
        UserError: As many names as runs there are not, or two are the same.
    """
    if names is not None and len(names) != len(runs):
        raise UserError(
            f'--names has {len(names)} names ({some_of(names)}) for {len(runs)} runs: give one for each.'
        )
    wanted = list(names or [run.name for run in runs])
    if names is None and len(set(wanted)) < len(wanted):
        wanted = [str(path) for path in paths]
    if len(set(wanted)) < len(wanted):
        twice = sorted({name for name in wanted if wanted.count(name) > 1})
        what = 'names' if names else 'runs'
        raise UserError(f'{some_of(twice)} is among the {what} twice: name each once.')
    return [
        Run(name, run.files, run.curves, run.notes) for name, run in zip(wanted, runs, strict=True)
    ]


def chosen(runs: Sequence[Run], keys: Sequence[str] | None = None) -> list[str]:
    """Which curves are drawn.

    Args:
        runs: The runs.
        keys: Names, or patterns such as ``'loss*'``. Default: the loss, the learning rate, and all
            metrics.

    Raises:
        UserError: A name fits no curve of any run.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.curves))
    if keys is None:
        phases = {name: run.curves[name].phase for run in runs for name in run.curves}
        metrics = [name for name in known if phases[name] == 'val' and not name.endswith('time')]
        metrics.sort(key=lambda name: _HEADLINES.index(name) if name in _HEADLINES else 99)
        return [name for name in ('loss', 'lr') if name in known] + metrics
    found: list[str] = []
    for key in keys:
        fitting = [name for name in known if fnmatchcase(name, key)]
        if not fitting:
            raise UserError(
                f'no run has a curve {key!r}{did_you_mean(key, known, most=3)}\n'
                f'  the curves: {", ".join(known)}'
            )
        found += fitting
    return list(dict.fromkeys(found))


def table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A line for every curve of every run: where it begins and ends, and its extremes."""
    lines = [['curve', 'run', 'points', 'until', 'first', 'last', 'least', 'at', 'greatest', 'at']]
    for name in names:
        for run in runs:
            if (curve := run.curves.get(name)) is None:
                lines.append([name, run.name, '0', *'-' * 7])
                continue
            finite = [
                (value, step)
                for value, step in zip(curve.values, curve.steps, strict=True)
                if math.isfinite(value)
            ]
            ends = ['-'] * 4
            if finite:
                low, high = (pick(finite, key=lambda point: point[0]) for pick in (min, max))
                ends = [_short(low[0]), str(low[1]), _short(high[0]), str(high[1])]
            until = f'{curve.unit} {curve.steps[-1]}'
            first, last = _short(curve.values[0]), _short(curve.values[-1])
            lines.append([name, run.name, str(len(curve.steps)), until, first, last, *ends])
    return columns(lines)


def _short(value: float) -> str:
    return f'{value:.4g}'


def as_data(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Plain data: every number is finite, and None stands for NaN and infinity."""
    return [
        {
            'run': run.name,
            'files': list(run.files),
            'notes': list(run.notes),
            'curves': {
                name: {
                    'phase': curve.phase,
                    'unit': curve.unit,
                    'steps': list(curve.steps),
                    'values': [v if math.isfinite(v) else None for v in curve.values],
                }
                for name in names
                if (curve := run.curves.get(name)) is not None
            },
        }
        for run in runs
    ]


def write_data(runs: Sequence[Run], names: Sequence[str], folder: Path) -> None:
    """Write ``curves.json`` and ``curves.csv``, which has a line for every point."""
    with replacing(folder / 'curves.json', '--out') as part:
        part.write_text(json.dumps(as_data(runs, names), indent=1, allow_nan=False) + '\n')
    with replacing(folder / 'curves.csv', '--out') as part, part.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['run', 'curve', 'phase', 'unit', 'step', 'value'])
        for run in runs:
            for name in names:
                if (curve := run.curves.get(name)) is None:
                    continue
                for step, value in zip(curve.steps, curve.values, strict=True):
                    writer.writerow([run.name, name, curve.phase, curve.unit, step, repr(value)])


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the finite ones among the ``window - 1`` before it."""
    found = []
    for i in range(len(values)):
        some = [v for v in values[max(0, i - window + 1) : i + 1] if math.isfinite(v)]
        found.append(sum(some) / len(some) if some else math.nan)
    return found


def draw(runs: Sequence[Run], names: Sequence[str], file: Path, window: int = 1) -> None:
    """Draw a panel for every curve, with a line for every run.

    Args:
        runs: The runs.
        names: Of the curves.
        file: The PNG file to write.
        window: How many points a line is the mean of; the points themselves are then drawn faintly.
    """
    from matplotlib.figure import Figure

    # One name may be logged by iteration in one run and by epoch in another: no common axis.
    panels = [
        (name, unit)
        for name in names
        for unit in sorted({run.curves[name].unit for run in runs if name in run.curves})
    ]
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.4 * across, 2.9 * down + 0.5), layout='constrained')
    grid = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (name, unit) in zip(grid.flat, panels, strict=False):
        for number, run in enumerate(runs):
            curve = run.curves.get(name)
            if curve is not None and curve.unit == unit:
                handles.setdefault(run.name, _line(axes, curve, number, window))
        _dress(axes, name, unit, {run.name: run.curves for run in runs})
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        list(handles.values()), list(handles), loc='outside upper left', frameon=False,
        ncols=min(len(handles), 4), fontsize=10,
    )  # fmt: skip
    with replacing(file, '--out') as part:
        figure.savefig(part, dpi=120, format='png')


def _line(axes: Any, curve: Curve, number: int, window: int) -> Any:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    marker = 'o' if len(curve.steps) <= 30 else None
    values = curve.values
    if window > 1 and curve.phase == 'train' and not curve.name.endswith('lr'):
        axes.plot(curve.steps, values, color=colour, alpha=0.25, lw=0.8)
        values, marker = tuple(smoothed(values, window)), None
    (line,) = axes.plot(curve.steps, values, dash, color=colour, marker=marker, ms=3, lw=1.5)
    return line


def _dress(axes: Any, name: str, unit: str, runs: Mapping[str, Mapping[str, Curve]]) -> None:
    values = [v for curves in runs.values() if name in curves for v in curves[name].values]
    finite = [v for v in values if math.isfinite(v)]
    if 'loss' in name and finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set_yscale('log')
    axes.set_title(name, fontsize=10, loc='left')
    axes.set_xlabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
