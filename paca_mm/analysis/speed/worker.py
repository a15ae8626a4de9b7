"""A contestant in a process of its own, as it would be in real life.

In one process the models would share the allocator: what one leaves there spares or costs another a
few thousand page faults, which can be a third of its time.
"""

import ctypes
import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from paca_mm.errors import UserError

from .clock import MATMUL, matmul, seconds_of
from .contestants import Facts, make
from .steps import Setting

MIB = 2**20


class Here:
    """A contestant in this process.

    Attributes:
        facts: What is known of it.
        peak: MiB that a step takes beyond the weights; None where the system does not tell.
    """

    facts: Facts
    peak: float | None

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, as in a matrix product
        self.device = torch.device(setting.device)
        self.run, self.facts = _made(name, setting)
        self.peak = self._warm_up()

    def _warm_up(self) -> float | None:
        if self.device.type == 'cuda':
            before = torch.cuda.memory_allocated()
            for _ in range(3):  # the first ones compile, choose kernels and fill the allocator
                self.run()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.run()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / MIB
        _start_libraries()
        if self.facts.compiled:  # the compiler's memory is not the model's
            self.run()
        before_bytes = _forget_peak()
        self.run()
        peak = _peak()
        return None if before_bytes is None or peak is None else (peak - before_bytes) / MIB

    def step(self) -> float:
        """Seconds of one step."""
        return seconds_of(self.run, self.device)


class Away:
    """The same in a process of its own, which gets ready while others do."""

    facts: Facts
    peak: float | None

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        self.name = name
        self.process, self.connection = _start(_serve, name, setting, threads)

    def wait(self) -> None:
        """Until it is built and has made its first step."""
        self.facts, self.peak = self._answer()

    def step(self) -> float:
        """Seconds of one step."""
        return self._answer('step')

    def _answer(self, order: str | None = None) -> Any:
        return _answer(self.name, self.process, self.connection, order)

    def hang_up(self) -> None:
        """Tell the process that nothing more will come, on which it ends."""
        self.connection.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.hang_up()
        self.process.join(3)
        self.process.kill()


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a process of its own."""
    process, connection = _start(_call, function, *args)
    try:
        return _answer(str(args[0]), process, connection)
    finally:
        connection.close()
        process.join(3)
        process.kill()


def _answer(name: str, process: Any, connection: Connection, order: str | None = None) -> Any:
    """What a process sends, upon an order if there is one; what it reports as an error is raised."""
    try:
        if order:
            connection.send(order)
        answer = connection.recv()
    except (EOFError, OSError):
        process.join()
        code = process.exitcode
        cause = ': memory ran out; choose fewer models, a smaller --batch or --size' * (code == -9)
        raise UserError(f'the process of {name} died, exit code {code}{cause}.') from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _start(function: Callable[..., None], *args: Any) -> tuple[Any, Connection]:
    """Start ``function(connection, *args)``; the process and the other end of its connection."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'paca_mm.analysis.speed.preload'])
    connection, other = context.Pipe()
    process = context.Process(target=function, args=(other, *args))
    process.start()
    other.close()
    return process, connection


def _serve(connection: Connection, name: str, setting: Setting, threads: int) -> None:
    with _reported(connection):
        here = Here(name, setting, threads)
        connection.send((here.facts, here.peak))
        while connection.recv():
            connection.send(here.step())


def _call(connection: Connection, function: Callable[..., Any], *args: Any) -> None:
    with _reported(connection):
        connection.send(function(*args))


@contextmanager
def _reported(connection: Connection) -> Iterator[None]:
    """What goes wrong is sent; nothing is said when nobody listens any more."""
    try:
        yield
        return
    except (EOFError, OSError, KeyboardInterrupt):
        return
    except UserError as e:
        answer: Exception = e
    except Exception as e:
        answer = RuntimeError(traceback.format_exc())
        if isinstance(e, (MemoryError, torch.cuda.OutOfMemoryError)) or 'allocate memory' in str(e):
            answer = UserError('memory ran out: choose fewer models, a smaller --batch or --size.')
    with suppress(OSError):
        connection.send(answer)


def _made(name: str, setting: Setting) -> tuple[Callable[[], Any], Facts]:
    if name == MATMUL:
        run, macs = matmul(torch.device(setting.device), setting.dtype)
        return run, Facts(setting, params=0, macs=macs, compiled=False)
    contestant = make(name, setting)
    return contestant.run, contestant.facts


def _start_libraries() -> None:
    """Threads and scratch memory of the kernels, which come with the first call of each kind."""
    x = torch.randn(1, 8, 32, 32, requires_grad=True)
    w = torch.randn(8, 8, 3, 3, requires_grad=True)
    y = torch.conv2d(x, w, padding=1).flatten(2)
    (y @ y.mT).softmax(-1).sum().backward()


def _forget_peak() -> float | None:
    """Start the record anew; bytes that are resident now, without those that were freed."""
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return None
    return _status('VmRSS')


def _peak() -> float | None:
    return _status('VmHWM')


def _status(key: str) -> float | None:
    """Bytes of a line of Linux's /proc/self/status."""
    file = Path('/proc/self/status')
    lines = file.read_text().splitlines() if file.exists() else []
    return next((float(x.split()[1]) * 1024 for x in lines if x.startswith(key)), None)
