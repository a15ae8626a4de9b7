"""A contestant in a process of its own, as it would be in real life.

In one process the models would share the allocator: what one leaves there spares or costs another a
few thousand page faults, which can be a third of its time.
"""

import ctypes
import multiprocessing
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Optional

import torch

from paca_mm.errors import UserError

from .clock import MATMUL, matmul, seconds_of
from .contestants import Facts, Setting, make

MIB = 2**20


class Here:
    """A contestant in this process, as on a GPU, whose allocator starts anew for every model.

    Attributes:
        facts: What is known of it.
        peak: MiB that a step takes beyond the weights.
    """

    facts: Facts
    peak: Optional[float]

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(setting.device)
        self.run, self.facts = _made(name, setting)
        self.peak = self._warm_up()

    def _warm_up(self) -> float:
        if self.device.type != 'cuda':
            _start_libraries()
            before = _forget_peak()
            self.run()
            return (_peak() - before) / MIB
        for _ in range(3):  # the first ones compile, choose kernels and fill the allocator
            self.run()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB

    def wait(self) -> None:
        """Nothing: it is ready."""

    def step(self) -> float:
        """Seconds of one step."""
        return seconds_of(self.run, self.device)

    def close(self) -> None:
        """Nothing is left to do."""


class Away:
    """The same in a process of its own, which gets ready while others do."""

    facts: Facts
    peak: Optional[float]

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(_modules())
        self.name = name
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other, name, setting, threads), daemon=True
        )
        self.process.start()
        other.close()

    def wait(self) -> None:
        """Until it is built and has made its first step."""
        self.facts, self.peak = self._answer()

    def step(self) -> float:
        """Seconds of one step."""
        self.connection.send('step')
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            cause = ': memory ran out; choose fewer models, a smaller --batch or --size' * (
                code == -9
            )
            raise UserError(f'the process of {self.name} died, exit code {code}{cause}.') from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(1)
        self.process.kill()


def _serve(connection: Connection, name: str, setting: Setting, threads: int) -> None:
    try:
        here = Here(name, setting, threads)
        connection.send((here.facts, here.peak))
        while connection.recv():
            connection.send(here.step())
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as e:
        connection.send(e)


def _modules() -> list[str]:
    """What takes long to import and most contestants need: the server does it once for all."""
    modules = ['torch', 'paca_mm.analysis.speed.contestants']
    modules += filter(find_spec, ['timm'])
    modules += ['paca_mm.models.decode_heads'] if find_spec('mmseg') else []
    return modules


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


def _forget_peak() -> float:
    """Start the record anew; bytes that are resident now, without those that were freed."""
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    clear = Path('/proc/self/clear_refs')
    if clear.exists():
        clear.write_text('5')
        return _status('VmRSS')
    return _peak()


def _peak() -> float:
    if Path('/proc/self/status').exists():
        return _status('VmHWM')
    unit = 1 if sys.platform == 'darwin' else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _status(key: str) -> float:
    lines = Path('/proc/self/status').read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
