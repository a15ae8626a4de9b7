"""What was measured: a row a contestant and setting, as a table to read and a CSV file to keep."""

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from paca_mm.files import make_folder, replacing

from ..tables import columns
from .conditions import Conditions


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
    heads = ['model', 'mode', 'batch', 'image', 'dtype', 'params M', 'GMACs', 'top-1', 'ms',
             '10-90 %', 'images/s', f'x {baseline}', '10-90 %', 'share', 'peak MiB']  # fmt: skip
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
            _or_dash(r.accuracy, '.4g'),
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
        CannotWrite: The folder cannot be written.
    """
    file = folder / f'{name}.csv'
    for i in count(2):
        if not file.exists():
            break
        file = folder / f'{name}_{i}.csv'
    make_folder(folder, '--out')
    with replacing(file, '--out') as part, part.open('w', newline='') as f:
        writer = csv.DictWriter(f, [x.name for x in (*fields(Row), *fields(Conditions))])
        writer.writeheader()
        for row in rows:
            values = {k: f'{v:.4g}' if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow({**values, **asdict(conditions)})
    return file
