"""Reading what mmengine's logger has written into a work directory."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from paca_mm.errors import UserError, did_you_mean

#: Where a training leaves its numbers, below its work directory: a folder for each time it was started.
SCALARS = 'vis_data/scalars.json'

#: What the logger writes beside what one wants to see.
_COUNTERS = ('step', 'iter', 'epoch')


def last_scalars(work_dir: str | Path, phase: str, headline: str) -> dict[str, Any]:
    """The newest line with a metric, of the newest run in a work directory.

    Args:
        work_dir: Of the run.
        phase: ``'train'``, whose log holds the validations, or ``'test'``.
        headline: The metric that the line must hold, ``'coco/segm_mAP_50'`` say.

    Raises:
        UserError: No run there got as far as such a line.
    """
    pattern = f'*/{SCALARS}' if phase == 'train' else '*/*.json'
    files = sorted(Path(work_dir).glob(pattern))
    lines = files[-1].read_text().splitlines() if files else []
    for line in reversed(lines):
        row = json.loads(line)
        if headline in row:
            return row
    raise UserError(f'no metrics in {work_dir}: the run there did not finish.')


@dataclass(frozen=True)
class Curve:
    """One quantity over a training.

    Attributes:
        name: As the logger calls it: ``'loss'``, ``'lr'``, ``'mIoU'``.
        phase: ``'train'`` or ``'val'``.
        unit: What ``steps`` count: ``'iteration'``, or ``'epoch'`` for metrics that are logged by it.
        steps: Ascending, each once.
        values: One for each step; NaN and infinity as they were logged.
    """

    name: str
    phase: str
    unit: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """A training, with all its resumptions.

    Attributes:
        name: Of its work directory.
        files: The logs it was read from, the oldest first.
        curves: By name, in the order in which the logs have them, those of the training first.
        notes: What is odd about the logs, a sentence each.
    """

    name: str
    files: tuple[str, ...]
    curves: Mapping[str, Curve]
    notes: tuple[str, ...] = ()


class _Line(NamedTuple):
    """A line of a log: of the training where ``position`` is its own step, or of a validation."""

    is_train: bool
    step: int
    position: int  # the last step of the training that was logged before it
    row: dict[str, Any]


def read_run(path: str | Path) -> Run:
    """Read the logs of a training; what was resumed is joined by iteration.

    Each start of a training has a log of its own. Where a later one goes back (to the checkpoint that it
    was resumed from), what it repeats is taken from the later one.

    Args:
        path: A work directory, one of the folders of its starts, or one log (``scalars.json``).

    Raises:
        UserError: There is no log of a training, or a line of it is none of mmengine's.
    """
    given = Path(path).expanduser()
    files = _logs_below(given)
    lines: list[_Line] = []
    notes: list[str] = []
    for file in files:
        more, torn = _lines_of(file)
        if torn:
            notes.append(f'the last line of {file} is torn and left out, as a kill leaves it.')
        if begins := next((line.step for line in more if line.is_train), None):
            by_epoch = _counts_epochs(lines)
            kept = [
                line
                for line in lines
                if line.position < begins and (by_epoch or line.is_train or line.step < begins)
            ]
            if lines and not any(line.is_train for line in kept):
                notes.append(
                    f'{file} begins again at iteration {begins}: what was logged before it in that '
                    'work directory is left out. Name one of its folders to see that start alone.'
                )
                kept = []
            lines = kept
        lines += more
    if not any(line.is_train for line in lines):
        raise UserError(
            f'{files[-1]} has no line of a training, which are those with "iter" in them: the run '
            'ended before the first one was logged.\n  to fix it: let it run on, or log more often: '
            '--cfg-options default_hooks.logger.interval=10'
        )
    curves = _curves_of(lines)
    broken = {
        name: count
        for name, curve in curves.items()
        if (count := sum(not math.isfinite(value) for value in curve.values))
    }
    notes += [f'{name}: {count} values are NaN or infinite.' for name, count in broken.items()]
    return Run(_name_of(given), tuple(map(str, files)), curves, tuple(notes))


def _name_of(path: Path) -> str:
    """What a run is called: its work directory, or the folder of a start in it."""
    folder = path.absolute().parent if path.is_file() else path.absolute()
    return folder.parent.name if folder.name == 'vis_data' else folder.name


def _logs_below(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != '.json':
            raise UserError(
                f'{path} is no log of numbers: it must be a scalars.json of mmengine.\n'
                f'  to fix it: name the work directory, or FOLDER/{SCALARS} in it.'
            )
        return [path]
    if not path.exists():
        folder = path.absolute().parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        raise UserError(
            f'there is no work directory {path.absolute()}{did_you_mean(path.name, names, most=3)}'
        )
    own = next((f for f in (path / SCALARS, path / Path(SCALARS).name) if f.is_file()), None)
    if own is not None:
        return [own]
    if found := sorted(path.glob(f'*/{SCALARS}')):
        return found
    below = sorted({file.parents[2] for file in path.glob(f'*/*/{SCALARS}')})
    hint = f' There are some in {", ".join(map(str, below[:3]))}.' if below else ''
    raise UserError(
        f'{path} has no log of a training: no */{SCALARS} in it.{hint}\n'
        '  to fix it: name the work directory of a training that has begun (work_dirs/NAME). It writes '
        "them where the visualizer's vis_backends have dict(type='LocalVisBackend')."
    )


def _lines_of(file: Path) -> tuple[list[_Line], bool]:
    """The lines of a log, and whether the last one is torn."""
    try:
        texts = file.read_text('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f'{file} cannot be read as a log ({e}).') from e
    lines: list[_Line] = []
    position = 0
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            step = row['step']
            if not isinstance(step, int) or isinstance(step, bool):
                raise TypeError('its step is no whole number')
        except (ValueError, TypeError, KeyError) as e:
            if number == len(texts) and isinstance(e, json.JSONDecodeError) and lines:
                return lines, True
            raise UserError(
                f"{file}, line {number}: {text[:60]!r} is no line of mmengine's logs, which are JSON "
                'with a "step" in each of them.\n  to fix it: name the scalars.json of a training.'
            ) from e
        is_train = 'iter' in row
        position = step if is_train else position
        lines.append(_Line(is_train, step, position, row))
    return lines, False


def _counts_epochs(lines: Iterable[_Line]) -> bool:
    """Whether the step of a validation is the epoch: it is less than the iterations before it."""
    return any(not line.is_train and line.step < line.position for line in lines)


def _curves_of(lines: Iterable[_Line]) -> dict[str, Curve]:
    lines = list(lines)
    trained = [line for line in lines if line.is_train]
    validated = [line for line in lines if not line.is_train]
    by_epoch = _counts_epochs(lines)
    points: dict[tuple[str, str], dict[int, float]] = {}
    for phase, some in (('train', trained), ('val', validated)):
        for line in some:
            for name, value in line.row.items():
                name = name.removeprefix(f'{phase}/')
                if name in _COUNTERS or isinstance(value, bool):
                    continue
                if isinstance(value, (int, float)):
                    points.setdefault((phase, name), {})[line.step] = float(value)
    curves: dict[str, Curve] = {}
    for (phase, name), values in points.items():
        label = f'val/{name}' if phase == 'val' and ('train', name) in points else name
        unit = 'epoch' if phase == 'val' and by_epoch else 'iteration'
        steps = sorted(values)
        curves[label] = Curve(
            label, phase, unit, tuple(steps), tuple(values[step] for step in steps)
        )
    return curves
