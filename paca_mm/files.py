"""Files that are never seen half written, and what is said of those that cannot be written."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError

#: What only a write is told, and why.
NO_ROOM = {
    errno.ENOSPC: 'no space is left on the disk',
    errno.EDQUOT: 'your quota is used up',
    errno.EROFS: 'the disk can only be read',
    errno.EFBIG: 'a file may not become that large (ulimit -f)',
}
#: What reading is told as well.
NO_WAY = {
    errno.EACCES: 'you have no right to write there',
    errno.EPERM: 'you have no right to write there',
    errno.ENOENT: 'the folder is not there, or not there any more',
    errno.ENOTDIR: 'a part of the path is a file and no folder',
    errno.EISDIR: 'it is a folder',
    errno.EEXIST: 'a file stands in its place',
    errno.EIO: 'the disk reports an error',
    errno.ESTALE: 'the network disk has lost it',
    errno.ENAMETOOLONG: 'the name is too long',
}
CURES = {
    NO_ROOM[errno.ENOSPC]: 'remove what is not needed there',
    NO_ROOM[errno.EDQUOT]: 'remove what is not needed there',
    NO_ROOM[errno.EFBIG]: 'ulimit -f unlimited',
    NO_ROOM[errno.EROFS]: 'have the disk mounted for writing',
}
#: How torch's and safetensors' own writers say that the system has refused them.
_REFUSALS = re.compile(
    r'PytorchStreamWriter|unexpected pos|iostream error|Parent directory .* does not exist'
    r'|cannot be opened|I/O error|IoError'
)


class CannotWrite(UserError, OSError):
    """A file or folder that the system does not let us write; the message says why and the cure."""


@contextmanager
def writing(path: str | os.PathLike, option: str = '', *, alone: bool = True) -> Iterator[None]:
    """Work that writes ``path`` or below it; what the system refuses becomes one message.

    Args:
        path: The file or folder that is written.
        option: Which option of the command names another place, ``'--out'`` say.
        alone: The work does nothing else. Otherwise only what must have been a write is taken for one:
            it is about room, or names a file below ``path``.

    Raises:
        CannotWrite: With the path, the reason, the free space and the cure.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _refusal(error, Path(path), alone)
        if reason is None:
            raise
        raise _cannot_write(error, path, reason, option, alone) from error


@contextmanager
def replacing(
    path: str | os.PathLike, option: str = '', ending: str = '', flushed: bool = True
) -> Iterator[Path]:
    """Write beside, flush, move: the path of a file to write, which becomes ``path`` at the end.

    What stood there before stays until the new file is complete and on the disk; after an exception
    nothing new is left. A kill may leave a hidden ``.NAME.part``, which the next try replaces.

    Args:
        path: The file.
        option: As of :func:`writing`.
        ending: What the name of the file beside has to end in, for a writer that goes by it.
        flushed: Whether it is to be on the disk before it replaces what stood there. What is easily made
            again need not be.

    Raises:
        CannotWrite: The system refuses it.
    """
    target = Path(path)
    part = target.with_name(f'.{target.name}.part{ending}')
    try:
        with writing(target, option):
            yield part
            move_into_place(part, target, flushed)
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            part.unlink(missing_ok=True)


def make_folder(path: str | os.PathLike, option: str = '') -> Path:
    """A folder that is there and can be written to, before there is work to lose.

    Raises:
        CannotWrite: It cannot be made, or nothing can be written into it.
    """
    folder = Path(path)
    with writing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix='.', suffix='.try') as tried:
            tried.write(bytes(4096))
    return folder


def move_into_place(
    part: str | os.PathLike, target: str | os.PathLike, flushed: bool = True
) -> None:
    """Give a complete file its name; it is on the disk before it replaces what stood there."""
    if flushed:
        flush(part)
    os.replace(part, target)
    if flushed:
        with suppress(OSError):  # some network file systems flush no folders
            flush(Path(target).parent)


def flush(path: str | os.PathLike) -> None:
    """Bring a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room(path: str | os.PathLike) -> str:
    """How much of a disk is free, in words; ``''`` where the system does not say."""
    usage = _usage(Path(path))
    return f'{_size(usage.free)} of {_size(usage.total)} are free' if usage else ''


def _usage(path: Path) -> Any:
    """Of the disk that a path lies on, or would lie on."""
    for place in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place)
    return None


def _size(count: float) -> str:
    units = iter(('bytes', 'kB', 'MB', 'GB', 'TB'))
    unit = next(units)
    while count >= 1000 and unit != 'TB':
        count, unit = count / 1000, next(units)
    return f'{count:.3g} {unit}'


def _refusal(error: BaseException, path: Path, alone: bool) -> str | None:
    """Why the system refused a write; None for any other error."""
    if isinstance(error, OSError):
        number = error.errno
        if number in NO_ROOM:
            return NO_ROOM[number]
        if number is not None and (alone or (_about(error, path) and not os.access(path, os.W_OK))):
            return NO_WAY.get(number, os.strerror(number))
        return None
    words = str(error)
    if type(error).__name__ not in ('RuntimeError', 'SafetensorError'):
        return None
    if not _REFUSALS.search(words):
        return None
    numbers = {**NO_ROOM, **NO_WAY}
    for number, reason in numbers.items():
        if os.strerror(number) in words or re.search(rf'code: {number}\b', words):
            return reason
    usage = _usage(path)  # torch's writer does not hand on what the system said
    full = usage is not None and usage.free < 2**20
    return NO_ROOM[errno.ENOSPC] if full else words.splitlines()[0]


def _about(error: OSError, path: Path) -> bool:
    """Whether an error names a file below a path, or a folder above it."""
    place = Path(os.path.abspath(path))
    for name in (error.filename, error.filename2):
        if isinstance(name, (str, os.PathLike)):
            named = Path(os.path.abspath(name))
            if named.is_relative_to(place) or place.is_relative_to(named):
                return True
    return False


def _cannot_write(
    error: BaseException, path: str | os.PathLike, reason: str, option: str, alone: bool
) -> CannotWrite:
    named = getattr(error, 'filename', None)
    told = isinstance(named, (str, os.PathLike))
    known = alone or told
    place = os.path.abspath(str(named if told and not alone else path))
    # Where nobody says which file it was, it may have been a temporary one.
    places = [place] if known else [place, tempfile.gettempdir()]
    free = '; '.join(f'{p}: {found}' if p != place else found for p in places if (found := room(p)))
    other = f'name another place by {option}' if option else 'name another place'
    said = CannotWrite(
        f'{" or ".join(places)} cannot be written: {reason}{f" ({free})" if free else ""}.\n'
        f'  to fix it: {CURES.get(reason, "see to the folder and its rights (ls -ld)")}, or {other}'
        + ('.' if known else '; TMPDIR names the one for temporary files.')
    )
    said.errno = getattr(error, 'errno', None)
    return said


def distinct_stems(files: Sequence[str | os.PathLike]) -> list[str]:
    """Names without folder and ending, by which files can be told apart.

    Where two have the same, the later one has its folder before it, as images in folders of their
    classes: ``000001``, ``cat_000001``.
    """
    names: dict[str, None] = {}  # in their order, and found at once among many
    for file in map(Path, files):
        name = file.stem if file.stem not in names else f'{file.parent.name}_{file.stem}'.strip('_')
        while name in names:  # a.png and a.jpg of the same folder
            name += '_'
        names[name] = None
    return [*names]
