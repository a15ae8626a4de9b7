"""Finding pictures that cannot be read, before or after they stop a run."""

import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

#: What a file of each kind begins with, and what stands near the end of a whole one.
_FORMATS = (
    (b'\xff\xd8\xff', b'\xff\xd9'),  # JPEG
    (b'\x89PNG\r\n\x1a\n', b'IEND'),
    (b'BM', b''),
    (b'GIF8', b';'),
    (b'RIFF', b''),  # WebP
    (b'II*\0', b''),  # TIFF
    (b'MM\0*', b''),
)
_TAIL = 4096  # some cameras write a little behind the end mark


def fault_of(path: str) -> Optional[str]:
    """What is wrong with a picture file as far as its first and last bytes tell, or None."""
    try:
        size = os.path.getsize(path)
        with open(path, 'rb') as f:
            head = f.read(8)
            f.seek(max(size - _TAIL, 0))
            tail = f.read()
    except OSError as e:
        return f'cannot be opened ({e.strerror})'
    if size == 0:
        return 'is empty (0 bytes)'
    for begin, end in _FORMATS:
        if head.startswith(begin):
            return None if end in tail else f'is torn ({size} bytes, its end mark is missing)'
    return f'is no picture (it starts with {head!r})'


def broken_pictures(
    paths: Sequence[str], most: int = 5, sample: Optional[int] = None
) -> list[tuple[str, str]]:
    """Pictures that cannot be read: (path, what is wrong).

    Args:
        paths: The files.
        most: Stop after so many.
        sample: Look at so many of them only, drawn at random (a fixed draw).
    """
    if sample is not None and len(paths) > sample:
        paths = random.Random(0).sample(list(paths), sample)
    found: list[tuple[str, str]] = []
    with ThreadPoolExecutor(16) as pool:
        for path, fault in zip(paths, pool.map(fault_of, paths), strict=True):
            if fault:
                found.append((path, fault))
                if len(found) == most:
                    break
    return found


def listing(broken: Iterable[tuple[str, str]]) -> str:
    """The findings, a line each."""
    return '\n'.join(f'  {path} {fault}' for path, fault in broken)
