"""A contestant in a process of its own, as it would be in real life.

In one process the models would share the allocator: what one leaves there spares or costs another a
few thousand page faults, which can be a third of its time.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
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
    """A contestant in this process, as on a GPU, whose allocator starts anew for every model."""

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(setting.device)
        self.run, self.facts = _made(name, setting)

    def warm_up(self) -> Optional[float]:
        """The first step, and the MiB that it took beyond the weights."""
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

    def step(self) -> float:
        """Seconds of one step."""
        return seconds_of(self.run, self.device)

    def close(self) -> None:
        """Nothing is left to do."""


class Away:
    """The same in a process of its own."""

    def __init__(self, name: str, setting: Setting, threads: int) -> None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(_modules())
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other, name, setting, threads), daemon=True
        )
        self.process.start()
        other.close()
        self.facts: Facts = self._answer()

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f'the process of a model died (exit code {self.process.exitcode}); -9 means that '
                'memory ran out: choose a smaller --batch or --size.'
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def warm_up(self) -> Optional[float]:
        self.connection.send('warm_up')
        return self._answer()

    def step(self) -> float:
        self.connection.send('step')
        return self._answer()

    def close(self) -> None:
        self.connection.close()
        self.process.join(5)
        self.process.kill()


def _serve(connection: Connection, name: str, setting: Setting, threads: int) -> None:
    try:
        here = Here(name, setting, threads)
        connection.send(here.facts)
        while True:
            connection.send(getattr(here, connection.recv())())
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as e:
        connection.send(e)


def _modules() -> list[str]:
    """What the server imports once for all."""
    wanted = ('torch', 'timm', 'mmpretrain', 'mmdet', 'mmseg')
    return [*filter(find_spec, wanted), 'paca_mm.analysis.speed.contestants']


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
    """Start the record anew; bytes that are resident now."""
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
