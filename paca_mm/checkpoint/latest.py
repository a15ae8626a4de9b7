"""The checkpoint that a run is resumed from."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError

from .read import read_checkpoint


@dataclass
class Latest:
    """What a search in a work directory has found.

    Attributes:
        file: The newest good checkpoint, or None.
        content: What it holds.
        refused: Checkpoints that were passed over, a line each: which, and why.
        odd: What is wrong with ``last_checkpoint``, or ``''``.
    """

    file: Path | None = None
    content: Any = None
    refused: list[str] = field(default_factory=list)
    odd: str = ''


def read_latest(
    work_dir: str | os.PathLike,
    check: Callable[[Any, Path], None] | None = None,
    elsewhere: Iterable[str | os.PathLike] = (),
) -> Latest:
    """The newest good checkpoint in a work directory.

    Trusts ``last_checkpoint`` if the file that it names is good; otherwise (a kill, a full disk) takes
    the newest that is. A checkpoint that goes further and was written after ``last_checkpoint`` comes
    before it: a run that is killed between the two writes has both.

    Args:
        work_dir: The folder.
        check: Called with the content of a checkpoint and its file; raises a :class:`UserError` where
            it is not good.
        elsewhere: Other folders of the same run. Of the newest of each, the one of the latest
            iteration is taken.
    """
    newest, *others = (_latest_in(place, check) for place in (work_dir, *elsewhere))
    for other in others:
        refused = newest.refused + other.refused
        newest = max(newest, other, key=_iteration)
        newest.refused = refused
    return newest


def _latest_in(folder: str | os.PathLike, check: Callable[[Any, Path], None] | None) -> Latest:
    files, odd = candidates(folder)
    found = Latest(odd=odd)
    for file in files:
        try:
            content = read_checkpoint(file)
            if check is not None:
                check(content, file)
            found.file, found.content = file, content
            break
        except UserError as e:
            content = None  # before the next one is read
            found.refused.append(' '.join(str(e).split()))
    return found


def _iteration(found: Latest) -> int:
    """How far a checkpoint is; -1 where there is none."""
    meta = found.content.get('meta') if isinstance(found.content, dict) else None
    done = meta.get('iter') if isinstance(meta, dict) else None
    return -1 if found.file is None else done if isinstance(done, int) else 0


def find_latest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint in a work directory, or None; see :func:`read_latest`."""
    return read_latest(work_dir).file


def candidates(work_dir: str | os.PathLike) -> tuple[list[Path], str]:
    """The checkpoints of a work directory, whatever is in them, and what is odd about their list.

    Returns:
        The files, the one to try first at the beginning; and what is wrong with ``last_checkpoint``,
        ``''`` for nothing.
    """
    folder = Path(work_dir)
    named, files = folder / 'last_checkpoint', _newest_first(folder)
    try:
        last = _path_in(named)
    except (OSError, ValueError) as e:
        return files, f'{named} cannot be read ({e})'
    if last is None:
        return files, ''
    # The work directory may have been moved since: its own file of that name goes first.
    first = [file for file in (folder / last.name, last) if os.path.isfile(file)]
    files = files or _newest_first(last.parent)  # a hook with a folder of its own (out_dir)
    written = _written(named)
    beyond = [file for file in files if _written(file) > written and _goes_beyond(file, last)]
    different: dict[str, Path] = {}
    for file in [*beyond, *first, *files]:
        different.setdefault(os.path.realpath(file), file)
    if last.name in [file.name for file in different.values()]:
        return list(different.values()), ''
    return list(different.values()), f'{named} names {str(last)[:200]!r}, which is not there'


def _path_in(file: Path) -> Path | None:
    """The path that ``last_checkpoint`` holds, None if there is no such file."""
    if not os.path.lexists(file):
        return None
    if not file.is_file():
        raise ValueError('it is no file')
    text = file.read_bytes().decode('utf-8').strip()
    if not text:
        raise ValueError('it is empty')
    return Path(text)


def _newest_first(folder: Path) -> list[Path]:
    files = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    return sorted(files, key=_written, reverse=True)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # removed since, or a link to nowhere
        return 0.0


def _goes_beyond(file: Path, last: Path) -> bool:
    """Whether a checkpoint is of a later epoch or iteration, by its name; if both count the same."""
    (kind, step), (of_last, last_step) = map(_step, (file, last))
    return step > last_step if kind == of_last else True


def _step(file: Path) -> tuple[str, int]:
    """What a checkpoint is named by, ``('epoch', 3)``."""
    found = re.search(r'(epoch|iter)_(\d+)\.pth$', file.name)
    return (found[1], int(found[2])) if found else ('', 0)
