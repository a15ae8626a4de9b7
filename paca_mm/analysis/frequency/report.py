"""The frequency view of a config: measured, and as tables and as plain data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from paca_mm.analysis.tables import columns
from paca_mm.files import replacing

from . import NOTE
from .images import Images
from .search import Budget, Ranked
from .spectrum import Band, Curve, mean_distance
from .stages import Stage, over_seeds, trained, untrained


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        images: The images.
        window: What they and the maps were multiplied with.
        seeds: Of the untrained networks.
        dataset: The curve of the images.
        by_seed: The stages of every untrained network.
        trained: The stages with the checkpoint, if there is one.
    """

    images: Images
    window: str
    seeds: tuple[int, ...]
    dataset: Curve
    by_seed: list[list[Stage]]
    trained: list[Stage] | None

    @property
    def untrained(self) -> list[Stage]:
        """The stages of the untrained networks, over the seeds."""
        return over_seeds(self.by_seed)

    @property
    def bands(self) -> tuple[int, ...]:
        """The octaves of the images and of all stages, ascending in frequency."""
        curves = [self.dataset, *(stage.curve for stage in self.by_seed[0])]
        return tuple(sorted({b for c in curves if c is not None for b in c.bands}, reverse=True))

    def distances(self) -> list['Distances']:
        """The distances of every stage, then their mean."""
        rows = []
        for i, stage in enumerate(self.untrained):
            after = self.trained[i] if self.trained else None
            rows.append(self._distances(stage.name, [i], [after] if after else []))
        every = [*range(len(rows))]
        return [*rows, self._distances('mean', every, self.trained or [])]

    def _distances(self, name: str, which: Sequence[int], after: Sequence[Stage]) -> 'Distances':
        before = [[stages[i].curve for i in which] for stages in self.by_seed]
        curves = [stage.curve for stage in after]
        images = [self.dataset] * len(which)
        return Distances(
            name,
            _spread([_mean(seed, curves) for seed in before]) if curves else None,
            _spread([_mean(seed, images) for seed in before]),
            _mean(curves, images) if curves else None,
        )


@dataclass(frozen=True)
class Distances:
    """Distances in decibels (see :func:`.spectrum.distance`); None where there is none.

    Attributes:
        name: Of the stage.
        training: From the untrained stage to the trained one, over the seeds.
        untrained: From the images to the untrained stage, over the seeds.
        trained: From the images to the trained stage.
    """

    name: str
    training: Band | None
    untrained: Band | None
    trained: float | None


def _mean(a: Sequence[Curve | None], b: Sequence[Curve | None]) -> float | None:
    return mean_distance([*zip(a, b, strict=True)])


def _spread(values: Sequence[float | None]) -> Band | None:
    found = [value for value in values if value is not None]
    return Band(float(np.mean(found)), min(found), max(found)) if found else None


def measure(
    cfg: Config,
    images: Images,
    seeds: Sequence[int] = (0, 1, 2),
    checkpoint: str | None = None,
    window: str = 'hann',
) -> Report:
    """Measure the images and the stages of a config's backbone.

    Args:
        cfg: The config, as :func:`.stages.prepared` returns it.
        images: The images.
        seeds: Of the untrained networks.
        checkpoint: Of the trained one, if there is one.
        window: See :func:`.spectrum.spectrum_of`.

    Raises:
        UserError: See :func:`.stages.trained`.
    """
    after = trained(cfg, checkpoint, images, window) if checkpoint else None
    return Report(
        images=images,
        window=window,
        seeds=tuple(seeds),
        dataset=Curve.of_images(images.spectrum(window)),
        by_seed=untrained(cfg, images, seeds, window),
        trained=after,
    )


def tables(report: Report) -> str:
    """The energies, slopes and distances as text."""
    bands = report.bands
    lines = [['spectrum of', 'positions', 'slope', *(f'{_range_of(b)}' for b in bands)]]
    height, width = report.images.size
    lines.append(_energies('images', (height, width), report.dataset, bands))
    for i, stage in enumerate(report.untrained):
        lines.append(_energies(f'{stage.name}, untrained', stage.positions, stage.curve, bands))
        if report.trained:
            after = report.trained[i]
            lines.append(_energies(f'{after.name}, trained', after.positions, after.curve, bands))
    distances = [
        ['distance, dB', 'untrained to trained', 'images to untrained', 'images to trained']
    ]
    distances += [
        [d.name, _band(d.training), _band(d.untrained), _number(d.trained)]
        for d in report.distances()
    ]
    return (
        'energy by octave: % of the variance, by cycles per pixel of the image\n\n'
        f'{columns(lines)}\n\n{columns(distances)}'
    )


def _energies(
    name: str, positions: tuple[int, int], curve: Curve | None, bands: Sequence[int]
) -> list[str]:
    place = f'{positions[0]} x {positions[1]}'
    if curve is None:
        return [name, place, '-', *('-' for _ in bands)]
    share = dict(zip(curve.bands, curve.shares.mean, strict=True))
    cells = [f'{100 * share[b]:.1f}' if b in share else '' for b in bands]
    slope = '-' if curve.slope is None else f'{curve.slope.mean:.2f}'
    return [name, place, slope, *cells]


def _range_of(band: int) -> str:
    return f'1/{2 ** (band + 2)}-1/{2 ** (band + 1)}'


def _band(band: Band | None) -> str:
    if band is None:
        return '-'
    return f'{band.mean:.2f} ({band.low:.2f} to {band.high:.2f})'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def search_table(ranked: Sequence[Ranked], budget: Budget, most: int = 12) -> str:
    """The nearest candidates, a line each."""
    lines = [['rank', 'depth', 'width', 'params (M)', 'MACs (G)', 'distance, dB', 'arch']]
    for place, r in enumerate(ranked[:most], start=1):
        c = r.candidate
        arch = ' '.join(f'{key}={_short(value)}' for key, value in c.arch.items())
        lines.append(
            [str(place), f'x {c.depth:g}', f'x {c.width:g}', f'{c.params / 1e6:.3f}',
             f'{c.macs / 1e9:.4f}', _band(r.distance), arch]
        )  # fmt: skip
    more = f'\n... {len(ranked) - most} more in the JSON file' if len(ranked) > most else ''
    return columns(lines) + more


def _short(value: Any) -> str:
    return ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def as_data(
    report: Report, config: str, checkpoint: str | None, search: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All of it as plain data; every number is finite, and what there is not is None."""
    images = report.images
    return {
        'note': NOTE,
        'config': config,
        'checkpoint': checkpoint,
        'images': {
            'source': images.source,
            'found': images.found,
            'used': len(images.pixels),
            'sizes': [list(size) for size in images.sizes],
            'files': list(images.files),
        },
        'window': report.window,
        'units': {
            'octaves': 'log2 of the frequency over 1/2 cycle per pixel of the image',
            'db': '10 log10 of the variance per (cycle per pixel)^2',
            'slope': 'exponent of the power: -2 for an amplitude of 1 / frequency',
            'distance': 'mean absolute difference in dB, each curve less its mean',
            'band of images and trained': '1.96 standard errors over the images to either side',
            'band of untrained': 'least and largest of the seeds',
        },
        'dataset': _curve(report.dataset),
        'seeds': list(report.seeds),
        'untrained': [_stage(stage) for stage in report.untrained],
        'trained': [_stage(stage) for stage in report.trained] if report.trained else None,
        'distances': [
            {
                'of': d.name,
                'untrained_to_trained': _plain(d.training),
                'images_to_untrained': _plain(d.untrained),
                'images_to_trained': d.trained,
            }
            for d in report.distances()
        ],
        'search': search,
    }


def search_data(ranked: Sequence[Ranked], budget: Budget, target: str, config: str) -> dict:
    """A search as plain data."""
    return {
        'budget': {'of': budget.of, 'most': budget.most, 'at_least': budget.at_least},
        'target': target,
        'config_of_the_nearest': config,
        'ranked': [
            {
                'depth': r.candidate.depth,
                'width': r.candidate.width,
                'arch': {k: _listed(v) for k, v in r.candidate.arch.items()},
                'params': r.candidate.params,
                'macs': r.candidate.macs,
                'distance': _plain(r.distance),
                'stages': [_stage(stage) for stage in r.stages],
            }
            for r in ranked
        ],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        'name': stage.name,
        'channels': stage.channels,
        'positions': list(stage.positions),
        'curve': None if stage.curve is None else _curve(stage.curve),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        'octaves': curve.octaves.tolist(),
        'cycles_per_pixel': (0.5 * 2**curve.octaves).tolist(),
        'db': _plain(curve.db),
        'energy': {
            'cycles_per_pixel': [[2.0 ** -(b + 2), 2.0 ** -(b + 1)] for b in curve.bands],
            'share': _plain(curve.shares),
        },
        'slope': _plain(curve.slope),
        'variance': curve.variance,
        'rows': curve.rows,
    }


def _plain(band: Band | None) -> dict[str, Any] | None:
    if band is None:
        return None
    return {key: _listed(value) for key, value in band._asdict().items()}


def _listed(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def store(data: dict[str, Any], file: Path) -> None:
    """Write plain data as JSON."""
    with replacing(file) as part:
        part.write_text(json.dumps(data, indent=1, allow_nan=False) + '\n')
