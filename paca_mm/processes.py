"""Processes that end with the one that started them.

A run that is killed takes nothing with it by itself: the workers of its data loaders may wait for each
other for ever, and the ranks of a dead ``torchrun`` train on. On Linux the kernel tells a process that
its parent is dead. Elsewhere the workers of a data loader look themselves.
"""

import ctypes
import functools
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h

#: The variable with the number of the process that a command of ours is to end with.
FOLLOWS = 'PACA_MM_FOLLOWS'

#: Seconds that a worker has for the batch at hand when it is told to end.
GRACE = 10


def die_with_parent(signum: int = signal.SIGKILL) -> bool:
    """Have the kernel send this process a signal when its parent dies; whether it will.

    It does so when the *thread* that started this process ends: start it from one that stays, such as
    the main thread. A parent that is dead already is noticed by nobody: ask :func:`os.getppid` after
    this call.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0) == 0
    except (OSError, AttributeError):  # a libc without it
        return False


def followed() -> dict[str, str]:
    """The environment of a command of ours that is to end with this process."""
    return {**os.environ, FOLLOWS: str(os.getpid())}


def follow_launcher() -> None:
    """Be told to end when torchrun, or a command of ours, dies that has started this process.

    A training then saves. Other parents, shells and ``nohup``, may go.
    """
    parent = os.getppid()
    follows = 'TORCHELASTIC_RUN_ID' in os.environ or os.environ.get(FOLLOWS) == str(parent)
    if follows and die_with_parent(signal.SIGTERM) and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


class WorkerInit:
    """The ``worker_init_fn`` of a data loader whose workers leave signals to the run and end with it.

    A scheduler, a terminal and torchrun signal the workers together with the run, which wants to end
    its step and save. A worker that died then would fail the step. One that cannot hand a batch over
    says so and ends; Python's would go on to the next, and the run wait for ever.

    Args:
        inner: The ``worker_init_fn`` that the data loader had.
    """

    def __init__(self, inner: Callable[[int], Any] | None = None) -> None:
        self.inner = inner
        self.fault = _fault_of_workers()

    def __call__(self, worker_id: int) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            told = die_with_parent() and parent.pid == os.getppid()  # a fork server stays
            if not parent.is_alive():  # before the call above
                os._exit(1)
            if not told:
                threading.Thread(target=_end_behind, args=(parent,), daemon=True).start()
        for name in ('SIGINT', 'SIGUSR1'):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, 'setitimer'):
            signal.signal(signal.SIGTERM, _end_later)
        # mmengine's batches are no one tensor: they are put into shared memory by the queue's thread.
        queue: Any = multiprocessing.queues.Queue
        queue._on_queue_feeder_error = staticmethod(self._end_of_queue)
        if self.inner is not None:
            self.inner(worker_id)

    def _end_of_queue(self, error: Exception, batch: Any) -> None:
        """What the queue's thread does where Python's prints a traceback and goes on."""
        if lacks_shared_memory(error):
            self.fault.value = True
            os.write(2, f'{error}\n'.encode())
        else:
            traceback.print_exception(error)
        os._exit(1)


@functools.cache
def _fault_of_workers() -> Any:
    """A flag that workers can raise: torch says of a dead one no more than that it is dead."""
    return multiprocessing.RawValue(ctypes.c_bool, False)


def attended(loader: Any) -> Any:
    """Let the workers of a data loader end with the process that iterates it; returns the loader."""
    if not isinstance(loader.worker_init_fn, WorkerInit):
        loader.worker_init_fn = WorkerInit(loader.worker_init_fn)
    return loader


def _end_behind(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _end_later(signum: int, frame: Any) -> None:
    """Give the run the batch that it may wait for, then end; a second signal ends at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, GRACE)


def let_workers_go() -> None:
    """Let workers end however they like: the run is over, and what ended it may have ended them.

    torch raises an error in the main process for a worker that a signal has ended, wherever that is.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, 'SIGCHLD'):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def lacks_shared_memory(error: BaseException) -> bool:
    """Whether an error says that workers and run have too little memory to share (``/dev/shm``)."""
    words = str(error)
    if re.search(r'shared memory|unable to (mmap|write to file|resize file).*torch_', words):
        return True
    if 'DataLoader worker' not in words or 'exited unexpectedly' not in words:
        return False
    fault = _fault_of_workers()
    raised, fault.value = fault.value, False
    return raised
