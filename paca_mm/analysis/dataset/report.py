"""A survey as text, as JSON and as a page with the first offenders."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paca_mm.analysis.tables import columns
from paca_mm.files import replacing

from .page import page
from .survey import Survey, Surveyed

#: Classes that the text names; the page and the JSON file have all.
_MOST_CLASSES = 12


def write_report(survey: Survey, folder: Path) -> str:
    """Write ``report.txt``, ``report.json`` and ``report.html`` into a folder; returns the text."""
    text = as_text(survey)
    for name, content in (
        ('report.txt', text + '\n'),
        ('report.json', json.dumps(as_dict(survey), indent=1)),
        ('report.html', page(survey)),
    ):
        with replacing(folder / name, '--out') as part:
            part.write_text(content, 'utf-8')
    return text


def as_dict(survey: Survey) -> dict[str, Any]:
    """A survey as plain data."""
    return {
        'config': survey.config,
        'datasets': [
            {
                'place': dataset.place,
                'type': dataset.type,
                'images': dataset.images,
                'empty': dataset.empty,
                'classes': {dataset.class_name(k): n for k, n in sorted(dataset.counts.items())},
                'unit': dataset.unit,
                'boxes': dataset.box_sizes(),
                'faults': [fault.as_dict() for fault in dataset.faults],
            }
            for dataset in survey.datasets
        ],
        'faults': [fault.as_dict() for fault in survey.faults],
    }


def as_text(survey: Survey) -> str:
    """A survey as a newcomer reads it."""
    parts = [part for dataset in survey.datasets for part in _dataset(dataset)]
    faults = survey.all_faults()
    if faults:
        rows = [['fault', 'dataset', 'count', 'weight']]
        rows += [[fault.kind, place, str(fault.count), fault.weight] for place, fault in faults]
        parts.append(columns(rows))
        parts += [f'{fault.weight}: {fault}' for _, fault in faults]
    else:
        parts.append('no faults.')
    return '\n\n'.join(parts)


def _dataset(dataset: Surveyed) -> Iterator[str]:
    lines = [f'{dataset.place} ({dataset.type}): {dataset.images} images, {dataset.empty} empty']
    if sizes := dataset.box_sizes():
        lines.append(
            f'boxes: {sizes["small"]} small (below 32 x 32 pixels), {sizes["medium"]} medium, '
            f'{sizes["large"]} large (from 96 x 96); side {sizes["side_5_percent"]} to '
            f'{sizes["side_95_percent"]} pixels (5 to 95 %), median {sizes["side_median"]}'
        )
    yield '\n'.join(lines)
    if dataset.counts:
        total = sum(dataset.counts.values())
        most = sorted(dataset.counts.items(), key=lambda pair: -pair[1])
        shown = most if len(most) <= _MOST_CLASSES else [*most[:8], *most[-4:]]
        rows = [['class', dataset.unit, 'share']]
        rows += [[dataset.class_name(k), str(n), f'{n / total:.1%}'] for k, n in shown]
        if len(shown) < len(most):
            rows.insert(9, [f'... {len(most) - len(shown)} more', '', ''])
        yield columns(rows)
