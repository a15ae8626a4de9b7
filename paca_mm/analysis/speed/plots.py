"""Plots of what was measured, beside its CSV file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paca_mm.families import families

from .conditions import Conditions
from .results import Row


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
_OURS, _PLAIN, _OTHERS = '#c1272d', '#777777', '#8c6bb1'
_COLOURS = {
    'swin': '#1f77b4',
    'convnext': '#2ca02c',
    'pvtv2': '#e08a00',
    'fastvit': '#1f77b4',
    'mobileone': '#2ca02c',
    'repvit': '#e08a00',
    'efficientformer': '#17a2a8',
}


def _colour(name: str) -> str:
    if '+plain' in name:
        return _PLAIN
    if any(f.prefix and f.prefix.rstrip('_') in name for f in families().values()):
        return _OURS
    return next((c for key, c in _COLOURS.items() if key in name), _OTHERS)


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
    groups: dict[str, list[Row]] = {}
    for r in rows:
        # paca_small and paca_base are sizes of one family; a variant is a family of its own.
        family = r.name.rpartition('_')[0] if '_' in r.name and '+' not in r.name else r.name
        groups.setdefault(family, []).append(r)
    for i, (family, members) in enumerate(groups.items()):
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
