"""Finding images that cannot be read, before or after they stop a run."""

import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

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


def fault_of(path: str, decode: bool = False) -> str | None:
    """What is wrong with an image file, or None.

    Args:
        path: The file.
        decode: Read all of it; otherwise its first and last bytes, which takes next to no time.
    """
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
            if end not in tail:
                return f'is torn ({size} bytes, its end mark is missing)'
            return _fault_inside(path) if decode else None
    return f'is no image (it starts with {head!r})'


def _fault_inside(path: str) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except Image.DecompressionBombError:
        return None  # large, not broken
    except Exception as e:  # whatever a damaged file trips over
        return f'is damaged ({e})'
    return None


def broken_images(
    paths: Sequence[str], most: int = 5, sample: int | None = None, decode: bool = False
) -> list[tuple[str, str]]:
    """Images that cannot be read: (path, what is wrong).

    Args:
        paths: The files.
        most: Stop after so many.
        sample: Look at so many of them only, drawn at random (a fixed draw).
        decode: Read all of each file, not its ends alone.
    """
    if sample is not None and len(paths) > sample:
        paths = random.Random(0).sample(list(paths), sample)
    found: list[tuple[str, str]] = []
    with ThreadPoolExecutor(16) as pool:
        for path, fault in zip(
            paths, pool.map(partial(fault_of, decode=decode), paths), strict=True
        ):
            if fault:
                found.append((path, fault))
                if len(found) == most:
                    break
    return found


def listing(broken: Iterable[tuple[str, str]]) -> str:
    """The findings, a line each."""
    return '\n'.join(f'  {path} {fault}' for path, fault in broken)
