"""One image of a report: the images, the stages, the energies."""

from pathlib import Path
from typing import Any

import numpy as np

from paca_mm.files import replacing

from .report import Report
from .spectrum import Curve
from .stages import Stage

_GREY = '#444444'


def plot(report: Report, title: str, file: Path) -> None:
    """Draw a report.

    Left the curve of the images; in the middle those of the stages, untrained dashed and trained
    solid, each less its mean; right the energy by octave.

    Args:
        report: The report.
        title: What it is of.
        file: The PNG file to write.
    """
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 5), layout='constrained', width_ratios=(1, 1.25, 1.1)
    )
    colours = plt.get_cmap('viridis')(np.linspace(0, 0.85, len(report.untrained)))
    figure.suptitle(title, fontsize=12, x=0.01, ha='left')
    _draw_images(left, report)
    _draw_stages(middle, report, colours)
    _draw_energies(right, report, colours)
    for axes in (left, middle, right):
        axes.spines[['top', 'right']].set_visible(False)
    with replacing(file) as part:
        figure.savefig(part, dpi=120, format='png')
    plt.close(figure)


def _draw_images(axes: Any, report: Report) -> None:
    curve = report.dataset
    x = 0.5 * 2**curve.octaves
    axes.plot(x, curve.db.mean, 'o-', color=_GREY, ms=4, label=_with_slope('images', curve))
    axes.fill_between(x, curve.db.low, curve.db.high, color=_GREY, alpha=0.25, lw=0)
    axes.set_title(f'{curve.rows} images, grey (band: 95 % by standard error)', fontsize=10)
    axes.set_ylabel('power, dB re variance 1 per (cycle/pixel)$^2$')
    _frequency_axis(axes, report)
    axes.legend(frameon=False, fontsize=9)


def _draw_stages(axes: Any, report: Report, colours: Any) -> None:
    for i, stage in enumerate(report.untrained):
        _draw_curve(axes, stage, 'untrained', '--', colours[i])
        if report.trained:
            _draw_curve(axes, report.trained[i], 'trained', '-', colours[i])
    seeds = f'{len(report.seeds)} seed' + 's' * (len(report.seeds) > 1)
    axes.set_title(f'stages (band: least to largest of {seeds}; trained: 95 %)', fontsize=10)
    axes.set_ylabel("power, dB re the curve's mean")
    _frequency_axis(axes, report)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _draw_curve(axes: Any, stage: Stage, when: str, dash: str, colour: Any) -> None:
    curve = stage.curve
    if curve is None or len(curve.octaves) < 2:
        return
    x, level = 0.5 * 2**curve.octaves, curve.db.mean.mean()
    marker = 'o' if dash == '-' else 's'
    axes.plot(
        x, curve.db.mean - level, dash, color=colour, marker=marker, ms=4,
        label=_with_slope(f'{stage.name} {when}', curve),
    )  # fmt: skip
    axes.fill_between(x, curve.db.low - level, curve.db.high - level, color=colour, alpha=0.2, lw=0)


def _with_slope(name: str, curve: Curve) -> str:
    return name if curve.slope is None else f'{name}, slope {curve.slope.mean:.2f}'


def _frequency_axis(axes: Any, report: Report) -> None:
    """Cycles per pixel by octaves, on the axis of the images."""
    first = int(np.floor(report.dataset.octaves[0]))
    ticks = np.arange(first, 1)
    axes.set_xscale('log', base=2)
    axes.set_xlim(0.5 * 2.0 ** (first - 0.3), 0.5 * 2**0.3)
    axes.set_xticks(0.5 * 2.0**ticks, [f'1/{2 ** (1 - t)}' for t in ticks])
    axes.set_xlabel('frequency, cycles per pixel of the image')
    axes.grid(alpha=0.25)


def _draw_energies(axes: Any, report: Report, colours: Any) -> None:
    """Stacked bars of the energies by octave, the lowest first."""
    rows: list[tuple[str, Curve | None]] = [('images', report.dataset)]
    for i, stage in enumerate(report.untrained):
        rows.append((f'{stage.name} untrained', stage.curve))
        if report.trained:
            rows.append((f'{stage.name} trained', report.trained[i].curve))
    import matplotlib.pyplot as plt

    bands = report.bands
    shades = plt.get_cmap('cividis')(np.linspace(0, 1, len(bands)))
    for at, (_, curve) in enumerate(rows):
        if curve is None:
            continue
        share = dict(zip(curve.bands, curve.shares.mean, strict=True))
        begin = 0.0
        for band, shade in zip(bands, shades, strict=True):
            length = 100 * share.get(band, 0.0)
            axes.barh(at, length, left=begin, color=shade, height=0.7, edgecolor='white', lw=0.4)
            begin += length
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel='share of the variance, %')
    axes.set_title('energy by octave, cycles per pixel', fontsize=10)
    names = [f'1/{2 ** (band + 2)} to 1/{2 ** (band + 1)}' for band in bands]
    handles = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in shades]
    axes.legend(
        handles, names, frameon=False, fontsize=8, ncols=3, loc='upper center',
        bbox_to_anchor=(0.4, -0.13),
    )  # fmt: skip
