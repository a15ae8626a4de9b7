"""What a run does where there is no room: on a disk, and in the memory that processes share.

Work is lost only if there is no other way. A checkpoint goes to another folder or waits for room; logs
and curves are left out with a warning; what remains is one message with the cure.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paca_mm.errors import UserError
from paca_mm.files import CannotWrite, room, writing
from paca_mm.processes import lacks_shared_memory

#: Minutes that a save waits for room, ``wait_for_room`` in a config. The other processes of a
#: distributed run wait with it, and NCCL's patience is ten minutes.
PATIENCE = 5
#: Seconds between two tries.
PAUSE = 10


@contextmanager
def room_for(work_dir: str | os.PathLike, option: str = '--work-dir') -> Iterator[None]:
    """A run; what has no room becomes one message with the cure.

    Raises:
        UserError: A file could not be written, or ``/dev/shm`` is too small.
    """
    try:
        with writing(work_dir, option, alone=False):
            yield
    except UserError:
        raise
    except (OSError, RuntimeError) as error:
        if not lacks_shared_memory(error):
            raise
        raise UserError(_shared_memory_cure()) from error


def _shared_memory_cure() -> str:
    free = room('/dev/shm') if os.path.isdir('/dev/shm') else ''
    loaders = ' '.join(
        f'{phase}_dataloader.num_workers=0 {phase}_dataloader.persistent_workers=False'
        for phase in ('train', 'val', 'test')
    )
    return (
        'the workers of a data loader have too little shared memory'
        + (f' (/dev/shm: {free})' if free else '')
        + '.\n  to fix it: in a container, docker run --shm-size=8g (or --ipc=host);\n'
        f'  or without workers: --cfg-options {loaders}'
    )


def save_somewhere(
    save: Callable[[str], None],
    folder: str,
    fallback: str | None = None,
    patience: float = PATIENCE,
    given_up: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = print,
) -> str:
    """Save into a folder; where that cannot be, into another one, or when there is room.

    Args:
        save: Writes into the folder that it is given, complete or not at all.
        folder: Where it shall be.
        fallback: Where else.
        patience: Minutes for which it is tried again.
        given_up: Asked every second whether to wait no longer.
        warn: Is told what happens.

    Returns:
        The folder.

    Raises:
        CannotWrite: There was no room in all that time.
    """
    places = [folder, *([fallback] if fallback else [])]
    end = time.monotonic() + patience * 60
    waited = False
    while True:
        for place in places:
            try:
                save(place)
            except CannotWrite as error:
                refused = error
                if not waited:
                    warn(str(error).splitlines()[0])
            else:
                if place != folder or waited:
                    warn(f'saved in {place}.')
                return place
        if time.monotonic() >= end or given_up():
            raise refused
        if not waited:
            warn(
                f'the run waits for room, {patience:g} minutes at most, and tries every {PAUSE} s.'
            )
        waited = True
        _pause(min(end, time.monotonic() + PAUSE), given_up)


def _pause(until: float, given_up: Callable[[], bool]) -> None:
    while (left := until - time.monotonic()) > 0 and not given_up():
        time.sleep(min(left, 1))


def fallback_folder(cfg: Any, work_dir: str) -> str | None:
    """Where a run's checkpoints go when its work directory has no room: a folder of its name."""
    other = cfg.get('fallback_dir')
    return other and os.path.join(os.path.abspath(other), os.path.basename(work_dir.rstrip('/')))


def forgive_curves(visualizer: Any, logger: logging.Logger) -> Any:
    """Let a visualizer's own files fail without ending the run; returns it."""
    for backend in getattr(visualizer, '_vis_backends', {}).values():
        folder = getattr(backend, '_save_dir', None)
        for name in ('_dump', 'add_image'):
            method = getattr(backend, name, None)
            if folder and method and not isinstance(method, _Forgiving):
                setattr(backend, name, _Forgiving(method, folder, logger))
    return visualizer


def forgive_log(logger: logging.Logger) -> logging.Logger:
    """Let a logger say once, and not in every line, that its file cannot be written; returns it."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _SaysOnce(handler)  # type: ignore[method-assign]
    return logger


class _Forgiving:
    """A method that writes curves: what the system refuses is a warning, once, and no error.

    A folder that was removed is made again, and the log in it goes on.
    """

    def __init__(self, write: Callable[..., Any], folder: str, logger: logging.Logger) -> None:
        self._write = write
        self._folder = folder
        self._logger = logger
        self._refused = False

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        try:
            with writing(self._folder):
                if not os.path.isdir(self._folder):
                    os.makedirs(self._folder)
                    for handler in self._logger.handlers:
                        if isinstance(handler, logging.FileHandler):
                            os.makedirs(os.path.dirname(handler.baseFilename), exist_ok=True)
                            handler.close()  # it opens its file again
                    self._logger.warning(f'{self._folder} was removed, and is made again.')
                self._write(*args, **kwargs)
        except CannotWrite as error:
            if not self._refused:
                self._logger.warning(f'{str(error).splitlines()[0]} The run goes on without it.')
            self._refused = True
        else:
            self._refused = False


class _SaysOnce:
    """What a handler of logs does when its file cannot be written: Python prints a traceback a line."""

    def __init__(self, handler: logging.FileHandler) -> None:
        self._handler = handler
        self._said = False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logging.Handler.handleError(self._handler, record)
        elif not self._said:
            self._said = True
            file = self._handler.baseFilename
            print(f'warning: the log {file} cannot be written ({error.strerror}).', file=sys.stderr)
