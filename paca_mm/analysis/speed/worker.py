"""A contestant in a process of its own, as it would be in real life.

In one process the models would share the allocator: what one leaves there spares or costs another a
few thousand page faults, which can be a third of its time.
"""

import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from paca_mm.errors import UserError

from .clock import MATMUL, matmul, seconds_of
from .contestants import Facts, make
from .steps import Setting

MIB = 2**20


class Runner:
    """A contestant in this process, built and warm.

    Attributes:
        facts: What is known of it.
        peak: MiB that a step takes beyond the weights; None where the system does not tell.
    """

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
        return peak_of(self.run)

    def step(self) -> float:
        """Seconds of one step."""
        return seconds_of(self.run, self.device)


class RunnerProcess:
    """A :class:`Runner` in a process of its own, which gets ready while others do."""

    facts: Facts
    peak: float | None

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        self._process = OwnProcess(name)
        self._ready = self._process.submit(_prepare, name, setting, threads)

    def wait(self) -> None:
        """Until it is built and has made its first step."""
        self.facts, self.peak = self._process.result(self._ready)

    def step(self) -> float:
        """Seconds of one step."""
        return self._process.result(self._process.submit(_step))

    def stop(self) -> None:
        """Tell the process that nothing more will come, on which it ends."""
        self._process.stop()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.close()


class OwnProcess:
    """One process, which calls functions one after the other.

    Attributes:
        name: What messages call it.
        process: The process itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['torch', 'paca_mm.analysis.speed.preload'])
        self._pool = ProcessPoolExecutor(1, context, initializer=_leave_interrupts_to_the_parent)
        others = set(multiprocessing.active_children())
        self._pool.submit(int)  # starts it
        (self.process,) = set(multiprocessing.active_children()) - others

    def submit(self, function: Callable[..., Any], *args: Any) -> 'Future[Any]':
        """Let it call ``function(*args)``."""
        try:
            return self._pool.submit(function, *args)
        except BrokenProcessPool:
            raise self._death() from None

    def result(self, future: 'Future[Any]') -> Any:
        """What the function returned.

        Raises:
            UserError: The process died, or memory ran out.
            Exception: Whatever else the function raised; its traceback is the cause.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._death() from None
        except Exception as e:
            if isinstance(
                e, (MemoryError, torch.cuda.OutOfMemoryError)
            ) or 'allocate memory' in str(e):
                raise UserError(f'{self.name}: memory ran out; {_SMALLER}.') from None
            raise

    def _death(self) -> UserError:
        self._pool.shutdown()  # the pool's thread reads the exit code, which can be read once only
        code = self.process.exitcode
        cause = f': memory ran out; {_SMALLER}' * (code == -signal.SIGKILL)
        return UserError(f'the process of {self.name} died, exit code {code}{cause}.')

    def stop(self) -> None:
        """Let it end when it has done what it is doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End it; what it is doing gets three seconds."""
        self.stop()
        if not wait([self.process.sentinel], 3):
            self.process.kill()
        self._pool.shutdown()


_SMALLER = 'choose fewer models, a smaller --batch or --size'


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a process of its own, which messages call by the first argument."""
    process = OwnProcess(str(args[0]))
    try:
        return process.result(process.submit(function, *args))
    finally:
        process.close()


#: The runner of a process that has one.
_runner: list[Runner] = []


def _prepare(name: str, setting: Setting, threads: int) -> tuple[Facts, float | None]:
    _runner[:] = [Runner(name, setting, threads)]
    return _runner[0].facts, _runner[0].peak


def _step() -> float:
    return _runner[0].step()


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; one of them is to speak."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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


def peak_of(run: Callable[[], Any]) -> float | None:
    """MiB that a call takes beyond what is resident before; None where the system does not tell."""
    with suppress(OSError, AttributeError):  # glibc has it; what was freed before would be reused
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the record of the peak starts again
    except OSError:
        return None
    before = _status('VmRSS')
    run()
    peak = _status('VmHWM')
    return None if before is None or peak is None else (peak - before) / MIB


def _status(key: str) -> float | None:
    """Bytes of a line of Linux's /proc/self/status."""
    file = Path('/proc/self/status')
    lines = file.read_text().splitlines() if file.exists() else []
    return next((float(x.split()[1]) * 1024 for x in lines if x.startswith(key)), None)
