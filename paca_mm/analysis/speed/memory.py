"""Peak memory of a step, watched where nothing else can be counted with it."""

import multiprocessing
import resource
import sys
from pathlib import Path

import torch

from .contestants import Setting, make

MIB = 2**20


def peak_memory(name: str, setting: Setting, threads: int) -> float:
    """MiB that one step of a contestant needs beyond its weights.

    On CUDA the allocator keeps the record. On a CPU the step runs in a process of its own, and the
    highest resident size during the step counts, less the size before it.
    """
    if setting.device == 'cuda':
        return _on_cuda(name, setting)
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        return pool.apply(_on_cpu, (name, setting, threads))


def _on_cuda(name: str, setting: Setting) -> float:
    run = make(name, setting).run
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _on_cpu(name: str, setting: Setting, threads: int) -> float:
    torch.set_num_threads(threads)
    contestant = make(name, setting)
    _start_libraries()
    before = _forget_peak()
    contestant.run()
    return (_peak() - before) / MIB


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
