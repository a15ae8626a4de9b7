"""One run in a work directory at a time.

The lock is one of POSIX: the kernel frees it when the process ends, however it ends, and neither the
workers of a data loader nor other processes that the run starts hold it on. Where a file system has no
locks, the file says who is at work: a run on the same machine is then noticed, one on another is not.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError
from paca_mm.files import writing

if sys.platform != 'win32':
    import fcntl

LOCK = '.running'

#: The work directories that this process holds: a lock of POSIX does not keep a process from itself.
_held: set[str] = set()


@contextlib.contextmanager
def held(work_dir: str | os.PathLike, option: str = '--work-dir') -> Iterator[None]:
    """Be the one run of a work directory, which is made where it is not there.

    Raises:
        UserError: Another run is at work there; the message names its machine and process.
        CannotWrite: The folder cannot be written.
    """
    folder = os.path.realpath(work_dir)
    if folder in _held or sys.platform == 'win32':
        yield
        return
    with writing(folder, option):
        os.makedirs(folder, exist_ok=True)
        descriptor = _lock(Path(folder), option)
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        with contextlib.suppress(OSError):  # the folder may have gone
            os.unlink(os.path.join(folder, LOCK))
        os.close(descriptor)


def _lock(folder: Path, option: str) -> int:
    """The open file that holds the lock."""
    file = folder / LOCK
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # somebody holds it
                    free = False
                else:  # no locks here
                    free = not _is_alive(_read(descriptor))
            if not free:
                raise _refused(folder, _read(descriptor), option)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    _sign(descriptor)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # that of a run that has just ended, and removed it


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    said = dict(
        host=socket.gethostname(), pid=os.getpid(), since=time.strftime('%Y-%m-%d %H:%M:%S')
    )
    os.pwrite(descriptor, json.dumps(said).encode(), 0)


def _read(descriptor: int) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(said, dict):
            return said
    return {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine is there still; of another machine nobody knows."""
    if owner.get('host') != socket.gethostname() or not isinstance(owner.get('pid'), int):
        return False
    try:
        os.kill(owner['pid'], 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return owner['pid'] != os.getpid()


def _refused(folder: Path, owner: dict[str, Any], option: str) -> UserError:
    who = f'process {owner.get("pid", "?")} on {owner.get("host", "an unknown machine")}'
    since = f', since {owner["since"]}' if owner.get('since') else ''
    return UserError(
        f'another run trains in {folder}: {who}{since}.\n'
        f'  to fix it: wait for its end or stop it, or name another folder by {option}.'
    )
