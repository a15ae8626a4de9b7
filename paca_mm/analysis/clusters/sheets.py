"""Sheets of pictures, for a phone and for paper: portrait, large letters, a legend for every colour."""

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from paca_mm.files import replacing

from .colours import MADE_OF, READ, distinct, heat, parts
from .seen import Seen, View

#: Inches of a sheet's width, and pixels of an inch: 1080 pixels, as many as a phone has.
WIDTH, DPI = 7.2, 150

_TITLE, _WORDS, _SMALL = 14, 11.5, 10.5  # points: 22 pixels and more


_SHARE = 'Percentages are shares of all attention'

#: How to read a sheet, on the sheet.
_READING = """Left: the cluster in which each patch weighs most, and the
one that it reads most; in brackets, how many clusters
there are on the picture.
Right: the clusters that are read most of all. The
percentage is the share of all attention that one
receives; bright are the patches that it is made of."""


def stage_sheet(
    seen: Seen,
    view: View,
    at: tuple[float, float] = (0.5, 0.5),
    top: int = 9,
    weights: str = '',
) -> Figure:
    """All about one block: its partitions, what one patch reads, and the clusters that are read most.

    Args:
        seen: The image.
        view: The block.
        at: Where the patch lies that is looked at: shares of the width and of the height.
        top: How many clusters have a heat map.
        weights: Where the weights came from, for the title.
    """
    ranked = view.ranked()[:top]
    maps = -(-len(ranked) // 3)
    figure, rows = _figure(seen, [1.0, 1.0] + [1.0] * maps)
    number = len(view.names) or len(view.assignment)
    rows_, columns = view.grid
    _headline(
        figure,
        f'{seen.name}: {view.title}',
        [f'{number} clusters, {columns} x {rows_} cells', weights],
    )

    y, x = at[1] * seen.size[0], at[0] * seen.size[1]
    row, column = view.cell_at(x, y)
    colours = distinct(number)
    image, belongs, reads = (figure.add_subplot(rows[0, i]) for i in range(3))
    _show(image, seen.pixels, 'image and patch')
    for plot in (image, belongs, reads):
        _mark(plot, view, row, column)
    _partition(belongs, seen, view, view.partition(), colours, 'belongs most to')
    _partition(reads, seen, view, view.read_most(), colours, 'reads most from')

    bars = figure.add_subplot(rows[1, 0])
    _bars(bars, view, row, column, colours)
    through = view.seen_from(row, column)
    plot = figure.add_subplot(rows[1, 1])
    _show(plot, heat(seen.pixels, through, view.cell, READ), 'what it reads')
    _mark(plot, view, row, column)
    everywhere = np.tensordot(view.mass(), view.assignment, 1)
    plot = figure.add_subplot(rows[1, 2])
    _show(plot, heat(seen.pixels, everywhere, view.cell, READ), 'what all read')

    mass = view.mass()
    for i, cluster in enumerate(ranked):
        plot = figure.add_subplot(rows[2 + i // 3, i % 3])
        _show(plot, heat(seen.pixels, view.assignment[cluster], view.cell, MADE_OF), '')
        plot.set_title(f'{view.name(cluster)}: {mass[cluster]:.1%}', fontsize=_WORDS, color='black')
    _legends(
        figure,
        [(READ, 'what is read', 'most'), (MADE_OF, 'what it is made of', 'most')],
        f'{_SHARE}, those of the patch of its own.',
    )
    return figure


def overview(seen: Seen, top: int = 2, weights: str = '', block: int = -1) -> Figure:
    """All stages on one sheet: both partitions and the clusters that are read most.

    Args:
        seen: The image.
        top: How many clusters of each stage.
        weights: Where the weights came from, for the title.
        block: Which block of each stage.
    """
    stages = seen.stages()
    figure, rows = _figure(seen, [1.0] * (1 + len(stages)), columns=top + 2, between=0.42)
    _headline(figure, f'{seen.name}: clusters, stage by stage', [weights])
    _show(figure.add_subplot(rows[0, 0]), seen.pixels, 'image')
    words = figure.add_subplot(rows[0, 1:])
    words.set_axis_off()
    words.text(0.02, 0.98, _READING, fontsize=_SMALL, va='top', linespacing=1.4)
    for i, stage in enumerate(stages, start=1):
        view = seen.view(stage, block)
        colours, mass = distinct(len(view.assignment)), view.mass()
        plot = figure.add_subplot(rows[i, 0])
        _partition(plot, seen, view, view.partition(), colours, f'stage {stage + 1}: belongs', 3)
        plot = figure.add_subplot(rows[i, 1])
        _partition(plot, seen, view, view.read_most(), colours, f'stage {stage + 1}: reads', 3)
        for j, cluster in enumerate(view.ranked()[:top]):
            plot = figure.add_subplot(rows[i, j + 2])
            _show(plot, heat(seen.pixels, view.assignment[cluster], view.cell, MADE_OF), '')
            plot.set_title(f'{view.name(cluster)}: {mass[cluster]:.1%}', fontsize=_SMALL)
    _legends(figure, [(MADE_OF, 'what a cluster is made of', 'most')])
    return figure


def class_sheet(seen: Seen, weights: str = '', most: int = 8) -> Figure:
    """The clusters of a head that has one a class, beside the labels.

    Args:
        seen: The image, with ``classes``.
        weights: Where the weights came from, for the title.
        most: Of how many classes; those that have most pixels, in the labels and as predicted.
    """
    view = seen.classes
    assert view is not None
    labels = seen.truth if seen.truth is not None else seen.predicted
    assert labels is not None
    counts = np.zeros(256, int)
    for found in (labels, seen.predicted):  # what is predicted and not there is worth a look, too
        if found is not None:
            counts += np.bincount(found.ravel(), minlength=256)
    present = [
        int(i) for i in np.argsort(-counts[: len(view.names)], kind='stable')[:most] if counts[i]
    ]
    known = seen.truth is not None
    figure, rows = _figure(seen, [1.0] * (1 + len(present)))
    said = 'labels: those of the dataset' if known else 'labels: as predicted'
    _headline(figure, f'{seen.name}: the classes of the head', [said, weights])
    first = [('image', seen.pixels)]
    if seen.truth is not None:
        first.append(('labels', _painted(seen, seen.truth)))
    if seen.predicted is not None:
        first.append(('prediction', _painted(seen, seen.predicted)))
    for i, (title, pixels) in enumerate(first):
        _show(figure.add_subplot(rows[0, i]), pixels, title)
    mass = view.mass()
    for i, label in enumerate(present, start=1):
        name = textwrap.shorten(view.name(label), 16, placeholder='...')
        mask = np.where(labels == label, 1.0, 0.0)
        plot = figure.add_subplot(rows[i, 0])
        _show(plot, parts(seen.pixels, mask.astype(int), 1, _two(seen.look.colour(label))), '')
        plot.set_title(f'{name}: labels', fontsize=_SMALL)
        plot = figure.add_subplot(rows[i, 1])
        _show(plot, heat(seen.pixels, view.assignment[label], view.cell, MADE_OF), '')
        plot.set_title('its cluster', fontsize=_SMALL)
        plot = figure.add_subplot(rows[i, 2])
        reads = view.attention[0, ..., label]
        _show(plot, heat(seen.pixels, reads, view.cell, READ, most=1.0), '')
        plot.set_title(f'who reads it: {mass[label]:.1%}', fontsize=_SMALL)
    _legends(figure, [(MADE_OF, 'made of', 'most'), (READ, 'read', '100 %')], f'{_SHARE}.')
    return figure


def row_of(pictures: Sequence[tuple[str, NDArray]], width: float = 11.0) -> Figure:
    """Pictures side by side, each with its title, all of one height."""
    ratios = [p.shape[1] / p.shape[0] for _, p in pictures]
    height = (width - 0.12 * (len(pictures) + 1)) / sum(ratios)
    figure = Figure(figsize=(width, height + 0.62), facecolor='white')
    grid = figure.add_gridspec(
        1, len(pictures), width_ratios=ratios, wspace=0.04,
        left=0.01, right=0.99, bottom=0.08 / (height + 0.62), top=1 - 0.54 / (height + 0.62),
    )  # fmt: skip
    for i, (title, pixels) in enumerate(pictures):
        _show(figure.add_subplot(grid[0, i]), pixels, title)
    return figure


def save(figure: Figure, file: str | os.PathLike, option: str = '', dpi: int = DPI) -> None:
    """Write a figure as a PNG file, which appears complete or not at all.

    Raises:
        CannotWrite: The system refuses it; ``option`` of the command names another place.
    """
    with replacing(Path(file), option, flushed=False) as part:
        figure.savefig(part, format='png', dpi=dpi)


def pixels_of(figure: Figure, dpi: int = 100) -> NDArray[np.uint8]:
    """A figure as (H, W, 3), RGB."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(
    seen: Seen, heights: Sequence[float], columns: int = 3, between: float = 0.36
) -> tuple[Figure, Any]:
    """A sheet and the grid of its pictures, each of the image's shape, with room for titles."""
    side = (WIDTH - 0.3 - 0.12 * (columns - 1)) / columns
    each = side * min(max(seen.size[0] / seen.size[1], 0.5), 1.6)
    head, foot = 0.95, 0.92
    body = sum(h * each for h in heights) + between * (len(heights) - 1)
    height = head + body + foot
    figure = Figure(figsize=(WIDTH, height), facecolor='white')
    grid = figure.add_gridspec(
        len(heights), columns, height_ratios=heights,
        left=0.15 / WIDTH, right=1 - 0.15 / WIDTH, top=1 - head / height, bottom=foot / height,
        hspace=between / each, wspace=0.12 / side,
    )  # fmt: skip
    return figure, grid


def _headline(figure: Figure, title: str, rest: Iterable[str]) -> None:
    height = figure.get_size_inches()[1]
    title = textwrap.shorten(title, 62, placeholder='...')
    figure.text(
        0.5, 1 - 0.2 / height, title, fontsize=_TITLE, weight='bold', ha='center', va='center'
    )
    words = textwrap.shorten(', '.join(filter(None, rest)), 84, placeholder='...')
    figure.text(0.5, 1 - 0.46 / height, words, fontsize=_WORDS, ha='center', va='center')


def _show(plot: Any, pixels: NDArray, title: str) -> None:
    plot.imshow(pixels, interpolation='nearest')
    plot.set_axis_off()
    if title:
        plot.set_title(title, fontsize=_WORDS)


def _mark(plot: Any, view: View, row: int, column: int) -> None:
    """Two frames, a dark and a light one, are seen on any ground."""
    place = column * view.cell - 0.5, row * view.cell - 0.5
    for colour, width in (('black', 3.6), ('white', 1.6)):
        plot.add_patch(Rectangle(place, view.cell, view.cell, fill=False, ec=colour, lw=width))


def _partition(
    plot: Any,
    seen: Seen,
    view: View,
    cells: NDArray,
    colours: NDArray,
    title: str,
    numbers: int = 6,
) -> None:
    """Cells in the colours of their clusters, with the numbers of the largest parts in them."""
    kinds, counts = np.unique(cells, return_counts=True)
    _show(plot, parts(seen.pixels, cells, view.cell, colours), '')
    plot.set_title(f'{title} ({len(kinds)})', fontsize=_WORDS if numbers > 3 else _SMALL)
    height, width = seen.size
    taken: list[tuple[float, float]] = []
    for cluster in kinds[np.argsort(-counts, kind='stable')[: numbers + 3]]:
        y, x = (n * view.cell for n in _middle(cells == cluster))
        # A number on another one, or half outside, can be read by nobody.
        if any(abs(y - v) < height * 0.1 and abs(x - u) < width * 0.16 for v, u in taken):
            continue
        if len(taken) == numbers or not (width * 0.08 < x < width * 0.92 and y > height * 0.05):
            continue
        taken.append((y, x))
        plot.text(
            x, y, view.names[cluster] if view.names else str(cluster), fontsize=_SMALL - 2,
            ha='center', va='center', color='white', clip_on=True,
            bbox=dict(boxstyle='round,pad=0.12', fc=(0, 0, 0, 0.7), ec=colours[cluster] / 255),
        )  # fmt: skip


def _middle(mask: NDArray) -> tuple[float, float]:
    """Row and column, in cells, of the place deepest inside of a mask."""
    import cv2

    deep = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(deep.argmax()), deep.shape)
    return float(row) + 0.5, float(column) + 0.5


def _bars(plot: Any, view: View, row: int, column: int, colours: NDArray) -> None:
    """The clusters that a patch reads most; behind them, what all patches read of them."""
    reads, mass = view.reads(row, column), view.mass()
    order = np.argsort(-reads, kind='stable')[:6]
    places = np.arange(len(order))
    plot.barh(places, mass[order] * 100, 0.86, color='#d0d0d0')
    plot.barh(places, reads[order] * 100, 0.5, color=colours[order] / 255)
    longest = max(float(reads.max()), float(mass[order].max())) * 100
    for place, cluster in zip(places, order, strict=True):
        name = textwrap.shorten(view.names[cluster], 10) if view.names else str(cluster)
        plot.text(
            longest * 0.02, place, f'{name}: {reads[cluster]:.1%}', va='center', fontsize=_SMALL,
            bbox=dict(boxstyle='round,pad=0.1', fc=(1, 1, 1, 0.75), ec='none'),
        )  # fmt: skip
    plot.set_xlim(0, longest * 1.05)
    plot.invert_yaxis()
    plot.set_yticks([])
    plot.set_xticks([])
    for side in ('top', 'right', 'bottom'):
        plot.spines[side].set_visible(False)
    plot.set_title('the patch (grey: all)', fontsize=_WORDS)


def _painted(seen: Seen, labels: NDArray) -> NDArray[np.uint8]:
    """Every pixel in the colour of its class over the grey image; black is none."""
    colours = [seen.look.colour(k) for k in range(255)]
    return parts(seen.pixels, labels, 1, np.array([*colours, (0, 0, 0)], np.uint8))


def _two(colour: Sequence[int]) -> NDArray[np.uint8]:
    """Black and a colour."""
    return np.array([(0, 0, 0), colour], np.uint8)


def _legends(figure: Figure, legends: Sequence[tuple[str, str, str]], words: str = '') -> None:
    """A strip for every colour map, with its name and what its end means, above a line of words."""
    height = figure.get_size_inches()[1]
    figure.text(0.5, 0.16 / height, words, fontsize=_SMALL, ha='center', va='center')
    width = 1 / len(legends) - 0.12
    for i, (colours, name, most) in enumerate(legends):
        left = i / len(legends) + 0.06
        strip = figure.add_axes((left, 0.62 / height, width, 0.14 / height))
        strip.imshow(np.linspace(0, 1, 256)[None], aspect='auto', cmap=colours)
        strip.set_axis_off()
        for x, text, side in ((0, '0', 'left'), (0.5, name, 'center'), (1, most, 'right')):
            figure.text(
                left + x * width, 0.44 / height, text, fontsize=_SMALL, ha=side, va='center'
            )
