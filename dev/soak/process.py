"""Trainings as processes: forked from this one, which has imported the libraries once."""

import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

#: Seconds in which a training has to be at its end, and its processes gone.
TOO_LONG, GONE = 600, 60

CONTEXT = multiprocessing.get_context('fork')

#: Of all trainings: none has a process at the end.
SESSIONS: set[int] = set()


class Process:
    """``python tools/train.py WORDS``, in a session of its own.

    Args:
        words: The command line.
        log: The file for what it says.
        hurt: Called in the process before it begins.
    """

    def __init__(self, words: list[str], log: Path, hurt: Callable[[], None] | None = None) -> None:
        self.log, self.began = log, time.monotonic()
        log.write_text('')
        self._process = CONTEXT.Process(target=_become, args=(words, log, hurt))
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]
        SESSIONS.add(self.pid)

    @property
    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def says(self, pattern: str, seconds: float = TOO_LONG) -> bool:
        """Wait until it has said something; whether it has, before its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            alive = self._process.is_alive()
            if re.search(pattern, self.text):
                return True
            if not alive:
                return False
            time.sleep(0.05)
        return False

    def lives(self, seconds: float) -> bool:
        """Wait; whether it is still there then."""
        self._process.join(seconds)
        return self._process.is_alive()

    def send(self, signum: int, to_all: bool = False) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.pid, signum)

    def members(self) -> list[int]:
        """All that are left of its session."""
        return [
            pid for pid, session, state, _ in processes() if session == self.pid and state != 'Z'
        ]

    def memory(self) -> int:
        """Bytes that its session has in memory."""
        page = resource.getpagesize()
        return sum(pages * page for _, session, _, pages in processes() if session == self.pid)

    def end(self) -> tuple[int, str, list[str]]:
        """Wait for the end: exit code, what it said, and what is wrong with it."""
        wrong = []
        self._process.join(max(0, self.began + TOO_LONG - time.monotonic()))
        if self._process.is_alive():
            wrong.append(f'not at its end after {TOO_LONG} s')
            self.send(signal.SIGKILL)
            self._process.join()
        deadline = time.monotonic() + GONE
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            wrong.append(f'{len(left)} processes are left')
            self.send(signal.SIGKILL, to_all=True)
        text = self.text
        if 'Traceback (most recent' in text:
            wrong.append(f'a traceback: {text.strip().splitlines()[-1][:200]}')
        code: int = self._process.exitcode  # type: ignore[assignment]
        return code, text, wrong


def _become(words: list[str], log: Path, hurt: Callable[[], None] | None) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    # As in a terminal: what a shell starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hurt is not None:
        hurt()
    sys.argv = [str(ROOT / 'tools/train.py'), *words]
    runpy.run_path(sys.argv[0], run_name='__main__')


def processes() -> Iterator[tuple[int, int, str, int]]:
    """All of this machine: id, session, state, pages in memory."""
    for entry in os.scandir('/proc'):
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = Path(entry.path, 'stat').read_text().rpartition(')')[2].split()
                yield int(entry.name), int(fields[3]), fields[0], int(fields[21])
