"""The statistics of clusters as tables, as plain data, and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paca_mm.analysis.tables import columns
from paca_mm.files import replacing

from .collect import Samples
from .tally import FIGURES, OF_LABELS, Tally


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        samples: The images.
        seeds: Of the untrained networks.
        untrained: The tallies of each of them.
        trained: Those with the checkpoint, if there is one.
    """

    samples: Samples
    seeds: tuple[int, ...]
    untrained: list[list[Tally]]
    trained: list[Tally] | None

    @property
    def rows(self) -> list[tuple[Tally, list[dict], dict | None]]:
        """Each stage: it, its figures for every seed, and with the checkpoint."""
        return [
            (
                same[0],
                [tally.figures() for tally in same],
                self.trained[i].figures() if self.trained else None,
            )
            for i, same in enumerate(zip(*self.untrained, strict=True))
        ]


#: Heads of the two tables, and the figures below them.
_OF_CLUSTERS = {
    'alive': 'alive',
    'in an image': 'alive_in_image',
    'read': 'read',
    'entropy of a position': 'position_entropy',
    'of a cluster': 'cluster_entropy',
    'overlap': 'overlap',
}
_OF_LABELS = {
    'information, all images': 'information',
    'in an image': 'information_in_image',
    'best IoU, all images': 'best_iou',
    'in an image ': 'best_iou_in_image',
}


def tables(report: Report) -> str:
    """What the clusters are; and, where there are labels, what they tell about them."""
    lines = [['clusters of', 'M', 'positions', *_OF_CLUSTERS]]
    agreement = [['clusters of', *_OF_LABELS]]
    for tally, before, after in report.rows:
        for when, figures in (('untrained', before), ('trained', [after] if after else [])):
            if not figures:
                continue
            name = f'{tally.name}, {when}'
            place = f'{tally.positions[0]} x {tally.positions[1]}'
            cells = [_spread(figures, key) for key in _OF_CLUSTERS.values()]
            lines.append([name, str(tally.clusters), place, *cells])
            agreement.append([name, *(_with_chance(figures, key) for key in _OF_LABELS.values())])
    said = (
        f'what the clusters are (untrained: mean, least to greatest of {len(report.seeds)} seeds)'
    )
    text = f'{said}\n\n{columns(lines)}'
    if report.samples.classes is None:
        return f'{text}\n\nno columns on labels: {report.samples.why_none}.'
    return (
        f'{text}\n\nwhat they tell about the labels (behind the stroke: with the labels of another '
        f'image)\n\n{columns(agreement)}'
    )


def _values(figures: Sequence[dict], key: str) -> list[float]:
    return [found[key] for found in figures if found.get(key) is not None]


def _spread(figures: Sequence[dict], key: str) -> str:
    values = _values(figures, key)
    if not values:
        return '-'
    digits = 1 if key in ('alive', 'alive_in_image', 'read') else 3
    mean = f'{np.mean(values):.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})'


def _with_chance(figures: Sequence[dict], key: str) -> str:
    chance = _values(figures, f'{key}_by_chance')
    own = _spread(figures, key)
    return f'{own} / {np.mean(chance):.3f}' if chance else own


def as_data(report: Report, config: str, checkpoint: str | None, block: int) -> dict[str, Any]:
    """All of it as plain data; None for what could not be measured."""
    samples = report.samples
    left_out = set() if samples.classes else set(OF_LABELS)

    def plain(figures: dict) -> dict:
        return {key: value for key, value in figures.items() if key not in left_out}

    def by_class(tally: Tally) -> dict | None:
        found = tally.by_class()
        return dict(zip(samples.classes, found, strict=True)) if samples.classes and found else None

    stages = []
    for i, (tally, before, after) in enumerate(report.rows):
        stages.append(
            {
                'name': tally.name,
                'clusters': tally.clusters,
                'positions': list(tally.positions),
                'untrained': [
                    {'seed': seed, **plain(figures), 'by_class': by_class(run[i])}
                    for seed, figures, run in zip(
                        report.seeds, before, report.untrained, strict=True
                    )
                ],
                'trained': (
                    {**plain(after), 'by_class': by_class(report.trained[i])}
                    if after and report.trained
                    else None
                ),
            }
        )
    return {
        'config': config,
        'checkpoint': checkpoint,
        'block': block,
        'images': {'source': samples.source, 'found': samples.found, 'used': len(samples.chosen)},
        'classes': samples.classes,
        'no_labels_because': samples.why_none or None,
        'figures': {key: text for key, text in FIGURES.items() if key not in left_out},
        'stages': stages,
    }


#: The panels: title, figure, and whether it is a count of clusters.
_PANELS = (
    ('clusters that win a position of an image, of M', 'alive_in_image', True),
    ('entropy of a position, of log M', 'position_entropy', False),
    ('overlap of two clusters', 'overlap', False),
    ("information on the class, of the classes' entropy", 'information', False),
    ('the same, a table for each image', 'information_in_image', False),
    ('best-match IoU, all images', 'best_iou', False),
)
_BEFORE, _AFTER, _CHANCE = '#e69f00', '#0072b2', '#777777'


def draw(report: Report, title: str, file: Path) -> None:
    """Draw a report: a panel for each figure, stages along the axis.

    Untrained: the mean, and a bar from the least to the greatest of the seeds; a grey stroke is what the
    same clusters give with the labels of another image.

    Args:
        report: The report.
        title: What it is of.
        file: The PNG file to write.
    """
    from matplotlib.figure import Figure

    panels = _PANELS if report.samples.classes else _PANELS[:3]
    figure = Figure(figsize=(13, 3.6 * len(panels) // 3 + 0.4), layout='constrained')
    figure.suptitle(title, fontsize=12, x=0.01, ha='left')
    grid = figure.subplots(len(panels) // 3, 3, squeeze=False)
    rows = report.rows
    for axes, (name, key, is_count) in zip(grid.flat, panels, strict=True):
        for at, (tally, before, after) in enumerate(rows):
            of = tally.clusters if is_count else 1
            for x, figures, colour, marker in (
                (at - 0.14, before, _BEFORE, 's'),
                (at + 0.14, [after] if after else [], _AFTER, 'o'),
            ):
                values = [value / of for value in _values(figures, key)]
                if not values:
                    continue
                axes.plot([x, x], [min(values), max(values)], color=colour, lw=5, alpha=0.35)
                axes.plot(x, np.mean(values), marker, color=colour, ms=7)
                if chance := _values(figures, f'{key}_by_chance'):
                    axes.plot([x - 0.1, x + 0.1], [np.mean(chance)] * 2, color=_CHANCE, lw=2)
        axes.set_title(name, fontsize=10, loc='left')
        axes.set_xticks(range(len(rows)), [tally.name for tally, _, _ in rows], fontsize=9)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        axes.tick_params(labelsize=9)
        axes.grid(alpha=0.25, axis='y')
        axes.spines[['top', 'right']].set_visible(False)
    from matplotlib.lines import Line2D

    seeds = f'{len(report.seeds)} seed' + 's' * (len(report.seeds) > 1)
    handles = [Line2D([], [], color=_BEFORE, marker='s', ls='', label=f'untrained, {seeds}')]
    if report.trained:
        handles.append(Line2D([], [], color=_AFTER, marker='o', ls='', label='trained'))
    if report.samples.classes and len(report.samples.chosen) > 1:
        handles.append(
            Line2D([], [], color=_CHANCE, lw=2, label='with the labels of another image')
        )
    figure.legend(handles=handles, loc='outside lower left', frameon=False, ncols=3, fontsize=10)
    with replacing(file, '--out') as part:
        figure.savefig(part, dpi=110, format='png')
