"""Finding images, and those among them that cannot be read, before or after they stop a run."""

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from paca_mm.errors import UserError
from paca_mm.type_names import type_name

#: The endings of the images in a folder: what the hosts' OpenCV and Pillow read.
SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.tga'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.j2k', '.avif'),
)

_JPEG = b'\xff\xd8\xff'

#: The kinds that end with a mark: their first bytes, and the mark.
_END_MARKS = (
    (_JPEG, b'\xff\xd9'),
    (b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'),
    (b'\0\0\0\x0cjP  ', b'\xff\xd9'),  # JPEG 2000
    (b'\xff\x4f\xff\x51', b'\xff\xd9'),  # JPEG 2000 without a container
)
_TAIL = 4096  # bytes in which the mark is looked for: some cameras write a little behind it

#: The EXIF tag of an image's orientation; from 5 on, its sides are swapped when it is read.
_ORIENTATION = 0x0112


def images_in(folder: str | os.PathLike[str]) -> list[str]:
    """The images of a folder by their endings, sorted. Hidden files are left out."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.path
            for entry in entries
            if not entry.name.startswith('.') and entry.name.lower().endswith(SUFFIXES)
        )


def find_images(*names: str) -> list[str]:
    """The images of files, folders and globs, in their order.

    Raises:
        UserError: There are none of one of them.
    """
    return [image for name in names for image in _images_of(name)]


def _images_of(what: str) -> list[str]:
    path = os.path.expanduser(what)
    if os.path.isdir(path):
        found = images_in(path)
    elif os.path.isfile(path):
        found = [path]
    else:
        found = sorted(name for name in glob(path, recursive=True) if os.path.isfile(name))
    if not found:
        raise UserError(
            f'no images in {what!r} (looked in {Path.cwd()}).\n  to fix it: name an image, a folder '
            f'with {", ".join(SUFFIXES)} files, or a quoted glob.'
        )
    return found


def loader_of(pipeline: Iterable[Any]) -> str | None:
    """What the steps of a data pipeline, or their settings, decode images with.

    Returns:
        ``'cv2'``, ``'pillow'`` or another backend of ``LoadImageFromFile``; None if another step
        loads them, which may read what is no image for anybody else.
    """
    for step in pipeline:
        if isinstance(step, Mapping):
            kind, backend = type_name(step), step.get('imdecode_backend')
        else:
            kind, backend = type_name(type(step)), getattr(step, 'imdecode_backend', None)
        if kind.endswith('LoadImageFromFile'):
            return backend or 'cv2'
    return None


class Size(NamedTuple):
    """The size of an image in pixels.

    Attributes:
        width: As it is read.
        height: As it is read.
        turned: Its EXIF tag swaps the sides of what the file holds when it is read.
    """

    width: int
    height: int
    turned: bool = False


def size_of(path: str) -> Size | None:
    """The size that an image states; None if it is too large for Pillow, or unknown to it."""
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = file.getexif().get(_ORIENTATION, 1) >= 5
    except Exception:
        return None  # the check of the images says what is wrong, if anything is
    return Size(height, width, True) if turned else Size(width, height)


def is_deep(path: str) -> bool:
    """Whether an image has more than 8 bits a pixel, and uses them."""
    try:
        with Image.open(path) as image:
            if not image.mode.startswith(('I', 'F')):
                return False
            extremes: Any = image.getextrema()
    except Exception:
        return False  # the check of the images says what is wrong
    return max(map(abs, extremes)) > 255


def a_sample(files: Iterable[Any], most: int | None) -> list[Any]:
    """Some of the files, drawn at random (a fixed draw), or all of them."""
    files = list(files)
    return files if most is None or len(files) <= most else random.Random(0).sample(files, most)


def fault_of(path: str, decode: bool = False, loader: str | None = 'cv2') -> str | None:
    """What is wrong with an image file, or None.

    Pillow decides what is an image. With OpenCV as the loader, it must be able to read it as well;
    and what it reads to the end may be of a kind that Pillow lacks (a TIFF of three floats a pixel).

    Args:
        path: The file.
        decode: Read all of it. Otherwise only its first and last bytes, which takes next to no
            time, unless its end mark is missing: phones write whole videos behind it.
        loader: What the image is going to be decoded with (see :func:`loader_of`). Of any but
            OpenCV and Pillow, only that the file is there and not empty is known.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return 'is no regular file'  # opening a pipe would wait for a writer, for ever
    try:
        with open(path, 'rb') as f:
            head = f.read(12)
            size = f.seek(0, os.SEEK_END)
            f.seek(max(size - _TAIL, 0))
            tail = f.read()
    except OSError as e:
        return f'cannot be opened ({e.strerror})'
    if size == 0:
        return 'is empty (0 bytes)'
    mark = next((mark for begin, mark in _END_MARKS if head.startswith(begin)), None)
    without_mark = mark is not None and mark not in tail
    if loader not in ('cv2', 'pillow') or not (mark is None or without_mark or decode):
        return None

    decode = decode or without_mark
    kind, fault = _seen_by_pillow(path, head, decode)
    if loader == 'cv2' and not (fault and mark):
        # What OpenCV decodes has no fault, even if Pillow refuses it. But not of the kinds with a
        # mark: OpenCV fills what is missing of a JPEG with grey.
        opencv_fault = _fault_for_opencv(path, kind, decode or fault is not None)
        fault = opencv_fault and (fault or opencv_fault)
    return f'is torn ({size} bytes, its end mark is missing)' if fault and without_mark else fault


def _seen_by_pillow(path: str, head: bytes, decode: bool) -> tuple[str, str | None]:
    """What kind of image a file is, and what is wrong with it."""
    try:
        # The class itself sets no limit to the size, and it decodes an eighth of each side alone.
        with JpegImageFile(path) if head.startswith(_JPEG) else Image.open(path) as image:
            if decode:
                image.draft('L', (1, 1))
                image.load()
            return str(image.format), None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return 'a large image', None  # as those of satellites are
    except UnidentifiedImageError:
        return '', f'is no image, or a damaged one (it starts with {head[:8]!r})'
    except Exception as e:  # whatever a damaged file trips over
        return '', f'is damaged ({e})'


def _fault_for_opencv(path: str, kind: str, decode: bool) -> str | None:
    """What keeps the installed OpenCV from reading an image that Pillow reads."""
    import cv2  # the runtime of exported models does without it

    try:
        if not cv2.haveImageReader(path):
            return (
                f'is {kind}, which OpenCV {cv2.__version__} does not read: convert it, or set '
                "imdecode_backend='pillow' in LoadImageFromFile"
            )
        if not decode or cv2.imread(path, cv2.IMREAD_UNCHANGED) is not None:
            return None
    except cv2.error:
        pass
    return f'is damaged (OpenCV {cv2.__version__} cannot decode it)'


def broken_images(
    paths: Sequence[str],
    most: int = 5,
    decode: bool = False,
    loader: str | None = 'cv2',
) -> list[str]:
    """Images that cannot be read, each as ``'PATH is torn (...)'``.

    Args:
        paths: The files.
        most: Stop after so many.
        decode: Read all of each file, not its ends alone.
        loader: What they are going to be decoded with (see :func:`loader_of`).
    """
    found: list[str] = []
    with ThreadPoolExecutor(16) as pool:
        faults = pool.map(partial(fault_of, decode=decode, loader=loader), paths)
        for path, fault in zip(paths, faults, strict=True):
            if fault:
                found.append(f'{path} {fault}')
                if len(found) == most:
                    break
    return found
