"""Plots of what was measured, beside its CSV file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paca_mm.families import row_named
from paca_mm.files import replacing

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


#: Ours, a colour a family; the yardstick of the same weights in grey, the others by family.
_OURS = ('#c1272d', '#1b62b5', '#23823f', '#b06a00', '#7a3fb0')
_PLAIN, _OTHERS, _PEER = '#777777', '#8c6bb1', '#9a9a9a'
_COLOURS = {
    'swin': '#1f77b4',
    'convnext': '#2ca02c',
    'pvtv2': '#e08a00',
    'fastvit': '#1f77b4',
    'mobileone': '#2ca02c',
    'repvit': '#e08a00',
    'efficientformer': '#17a2a8',
}


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every contestant. One family of ours is red among coloured peers; several have
    their colours, and all peers are grey.
    """
    own = {name: title for name in names if (title := _family(name))}
    titles = [*dict.fromkeys(own.values())]
    found = {}
    for name in names:
        if '+plain' in name:
            found[name] = _PLAIN
        elif name in own:
            found[name] = _OURS[titles.index(own[name]) % len(_OURS)]
        elif len(titles) > 1:
            found[name] = _PEER
        else:
            found[name] = next((c for key, c in _COLOURS.items() if key in name), _OTHERS)
    return found


def _family(name: str) -> str | None:
    """The title of our family that a contestant is of, alone or inside a host."""
    row = row_named(name.split('+')[0].rpartition('/')[2])
    return row[0].title if row else None


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
    colours = _colours(dict.fromkeys(r.name for r in rows))
    for i, (name, colour) in enumerate(colours.items()):
        line = sorted((r for r in rows if r.name == name), key=lambda r: r.height * r.width)
        x = [r.height * r.width / 1e6 for r in line]
        dash = '--' if '+plain' in name else '-'
        axes.plot(x, [r.ms for r in line], dash, marker='osD^v'[i % 5], color=colour, label=name)
        axes.fill_between(
            x,
            [r.ms_p10 for r in line],
            [r.ms_p90 for r in line],
            color=colour,
            alpha=0.15,
            lw=0,
        )
    axes.set(xlabel='megapixels', ylabel='milliseconds', xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return _store(figure, file)


def _plot_accuracy(rows: Sequence[Row], conditions: Conditions, file: Path) -> Path:
    from matplotlib.ticker import LogLocator, NullLocator

    side = f'{rows[0].height}x{rows[0].width}'
    figure, axes = _axes(
        conditions, rows[0], f'Accuracy (published) against time (measured), {side}'
    )
    groups: dict[str, list[Row]] = {}
    for r in rows:
        # paca_small and paca_base are sizes of one family; a variant is a family of its own.
        family = r.name.rpartition('_')[0] if '_' in r.name and '+' not in r.name else r.name
        groups.setdefault(family, []).append(r)
    colours = _colours(dict.fromkeys(r.name for r in rows))
    several = _PEER in colours.values()
    for i, (family, members) in enumerate(groups.items()):
        members.sort(key=lambda r: r.ms)
        x, y = [r.ms for r in members], [r.accuracy for r in members]
        bars = [[r.ms - r.ms_p10 for r in members], [r.ms_p90 - r.ms for r in members]]
        colour = colours[members[0].name]
        peer = colour == _PEER
        axes.errorbar(x, y, xerr=bars, fmt='none', ecolor=colour, elinewidth=4, alpha=0.25)
        axes.plot(x, y, '-', color=colour, lw=1, alpha=0.6)
        axes.scatter(
            x, y, [r.params_m * 2 for r in members], edgecolors=colour,
            facecolors='white' if peer else colour, label=None if peer else family, zorder=3,
        )  # fmt: skip
        above = 1 if i % 2 == 0 else -1
        for r in members if not several else ():
            axes.annotate(
                r.name[len(family) + 1 :], (r.ms, r.accuracy), (0, above * _radius(r)),
                textcoords='offset points', fontsize=9, color=colour, ha='center',
                va='bottom' if above > 0 else 'top',
            )  # fmt: skip
    if not several:  # where there are, the names are written out
        figure.legend(frameon=False, loc='outside right upper', markerscale=0.8, fontsize=9)
    axes.set(xlabel='milliseconds (bar: 10th to 90th percentile; area: parameters)',
             ylabel='ImageNet top-1, %')  # fmt: skip
    times = [r.ms for r in rows]
    if max(times) > 6 * min(times):  # phones and servers in one plot
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, None)
    scores = [r.accuracy for r in rows if r.accuracy]
    axes.set_ylim(min(scores) - 1, max(scores) + 0.7)  # a tenth of a point is not to look large
    if several:
        _name_all(figure, axes, rows, colours)
    return _store(figure, file)


def _radius(r: Row) -> float:
    """How far from the middle of its circle a contestant's name stands, in points."""
    return 4 + (r.params_m / 2) ** 0.5


def _name_all(figure: Any, axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Write every name beside its circle, where it hides no other name or circle; ours come first."""
    figure.draw_without_rendering()  # settles where the axes are
    left, _, right, _ = axes.bbox.transformed(figure.dpi_scale_trans.inverted()).extents * 72
    at = {r.name: axes.transData.transform((r.ms, r.accuracy)) * 72 / figure.dpi for r in rows}
    taken = []  # left, bottom, right, top, in points
    for r in rows:
        (x, y), half = at[r.name], (r.params_m / 2) ** 0.5
        taken.append((x - half, y - half, x + half, y + half))

    def hidden(box: tuple[float, ...]) -> float:
        """The area that a name there would share with what is placed, and be outside of the axes."""
        outside = max(box[2] - right, 0) + max(left - box[0], 0)
        return outside * 10 + sum(
            max(min(box[2], o[2]) - max(box[0], o[0]), 0)
            * max(min(box[3], o[3]) - max(box[1], o[1]), 0)
            for o in taken
        )

    for r in sorted(rows, key=lambda r: (colours[r.name] == _PEER, -(r.accuracy or 0))):
        peer = colours[r.name] == _PEER
        size = 6.5 if peer else 8.5
        width, away = len(r.name) * size * 0.58, _radius(r)
        x, y = at[r.name]
        beside = (away, -away - width)
        places = [(dx, 0.0) for dx in beside]
        places += [(dx, dy * away) for dy in (1, -1, 1.6, -1.6) for dx in (*beside, -width / 2)]
        boxes = [
            (x + dx, y + dy - size / 2, x + dx + width, y + dy + size / 2) for dx, dy in places
        ]
        box, (dx, dy) = min(zip(boxes, places, strict=True), key=lambda b: hidden(b[0]))
        taken.append(box)
        axes.annotate(
            r.name, (r.ms, r.accuracy), (dx, dy),
            textcoords='offset points', fontsize=size, ha='left', va='center',
            color='#6d6d6d' if peer else colours[r.name],
        )  # fmt: skip


def _store(figure: Any, file: Path) -> Path:
    import matplotlib.pyplot as plt

    with replacing(file, '--out') as part:
        figure.savefig(part, dpi=130, format=file.suffix.removeprefix('.'))
    plt.close(figure)
    return file
