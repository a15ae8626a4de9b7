"""The checkpoint that a run is resumed from."""

import os
import re
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError

from .read import read_checkpoint


def read_latest(work_dir: str | os.PathLike) -> tuple[Path, Any] | None:
    """The newest complete checkpoint in a work directory and its content, or None.

    Trusts ``last_checkpoint`` if the file that it names can be read; otherwise (a kill, a full disk)
    takes the newest that can. A checkpoint that goes further and was written after ``last_checkpoint``
    comes before it: a run that is killed between the two writes has both.
    """
    folder = Path(work_dir)
    named = folder / 'last_checkpoint'
    candidates = sorted(
        [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')],
        key=lambda file: file.stat().st_mtime,
        reverse=True,
    )
    if named.is_file():
        last = Path(named.read_text().strip())
        written = named.stat().st_mtime
        beyond = [f for f in candidates if f.stat().st_mtime > written and _step(f) > _step(last)]
        # The work directory may have been moved since: its own file of that name goes first.
        candidates = [*beyond, folder / last.name, last, *candidates]
    for file in candidates:
        if file.is_file():
            try:
                return file, read_checkpoint(file)
            except UserError:
                continue
    return None


def find_latest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint in a work directory, or None; see :func:`read_latest`."""
    found = read_latest(work_dir)
    return found[0] if found else None


def _step(file: Path) -> int:
    """The epoch or iteration that a checkpoint is named by; 0 where it is named otherwise."""
    found = re.search(r'_(\d+)\.pth$', file.name)
    return int(found[1]) if found else 0
