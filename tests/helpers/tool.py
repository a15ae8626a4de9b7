"""Running the command lines of ``tools/``: inside the test process, or as several processes."""

import importlib.util
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import torch
from torch.distributed import TCPStore

from paca_mm.paths import assets_root


def script(path):
    """The module of a script, ``'dev/readme_tables.py'`` say; its folder is no package."""
    return script_at(assets_root() / path)


def script_at(file):
    """The module of a file."""
    spec = importlib.util.spec_from_file_location(f'{file.parent.name}_{file.stem}', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool(name):
    """The module of ``tools/NAME.py``."""
    return script(f'tools/{name}.py')


def forget_runs():
    """Drop what mmengine keeps for a process: one command line is one process, a test runs many."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    kept = [DefaultScope, MessageHub, MMLogger, Visualizer]
    while kept:
        cls = kept.pop()
        cls._instance_dict.clear()
        kept += cls.__subclasses__()


def run(name, *argv):
    """Run a tool as from its command line; returns its exit code."""
    forget_runs()
    try:
        tool(name).main([os.fspath(a) for a in argv])
    except SystemExit as e:
        return e.code or 0
    return 0


#: What takes seconds to import and processes of tests need. The hosts' packages import next to nothing
#: by themselves: it is their models and datasets that take long. What is absent is left out.
PRELOADED = [
    'torch',
    'paca_mm.analysis.speed.preload',
    'paca_mm.engine.launch',
    *('mmdet.models', 'mmdet.datasets', 'mmseg.models', 'mmseg.datasets'),
    'yapf',
]


def start_server():
    """Start the server that processes are forked from, or see that it runs.

    A process has one such server, which imports what the first that starts it asks for.
    """
    forkserver.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def job(processes, script, *argv, cwd, patience=0):
    """Run a script as the processes of one distributed job; returns what ``subprocess.run`` does.

    When one of them fails, the others have ``patience`` seconds to end by themselves.

    They get what torchrun gives them. They come from a server that has imported torch and the hosts
    once: a fresh interpreter in each of them would take longer than most of these runs.
    """
    start_server()
    server = multiprocessing.get_context('forkserver')
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)  # keeps its port
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for rank in range(processes):
            variables = dict(
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=store.port,
                TORCHELASTIC_USE_AGENT_STORE=True,
                TORCHELASTIC_RESTART_COUNT=0,
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE=processes,
                LOCAL_WORLD_SIZE=processes,
                OMP_NUM_THREADS=1,
            )
            words = [os.fspath(script), *map(str, argv)]
            outputs = [f'{folder}/{rank}.{name}' for name in ('out', 'err')]
            workers.append(server.Process(target=_main, args=(words, cwd, variables, outputs)))
        for worker in workers:
            worker.start()
        alive = {worker.sentinel: worker for worker in workers}
        ends = None
        while alive:
            left = None if ends is None else max(ends - time.monotonic(), 0)
            for sentinel in wait(alive, left):
                worker = alive.pop(sentinel)
                worker.join()
                if worker.exitcode and ends is None:  # the others would wait for it
                    ends = time.monotonic() + patience
            if ends is not None and time.monotonic() >= ends:
                ends = None
                for other in alive.values():
                    other.terminate()
        said = [
            ''.join(Path(f'{folder}/{rank}.{name}').read_text() for rank in range(processes))
            for name in ('out', 'err')
        ]
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    return subprocess.CompletedProcess(script, codes[0] if codes else 0, *said)


def _main(words, cwd, variables, outputs):
    """Become a process that was started with ``python WORDS``."""
    os.chdir(cwd)
    os.environ.update({name: str(value) for name, value in variables.items()})
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)  # noqa: SIM115
    sys.argv = words
    sys.path[:0] = [os.path.dirname(os.path.abspath(words[0]))]
    torch.set_num_threads(1)
    runpy.run_path(words[0], run_name='__main__')
