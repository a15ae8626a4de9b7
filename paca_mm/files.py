"""Files that are never seen half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside, flush, move: the path of a file to write, which becomes ``path`` at the end.

    What stood there before stays until the new file is complete and on the disk; after an exception
    nothing new is left. A kill may leave a hidden ``.NAME.part``, which the next try replaces.
    """
    target = Path(path)
    part = target.with_name(f'.{target.name}.part')
    try:
        yield part
        move_into_place(part, target)
    finally:
        part.unlink(missing_ok=True)


def move_into_place(part: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a complete file its name; it is on the disk before it replaces what stood there."""
    flush(part)
    os.replace(part, target)
    with suppress(OSError):  # some network file systems flush no folders
        flush(Path(target).parent)


def flush(path: str | os.PathLike) -> None:
    """Bring a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
