"""Running the command lines of ``tools/``: inside the test process, or as several processes."""

import importlib.util
import os
import subprocess
import sys

from paca_mm.paths import assets_root


def script(path):
    """The module of a script, ``'dev/readme_tables.py'`` say; its folder is no package."""
    file = assets_root() / path
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


def torchrun(processes, *words, cwd):
    """Run a script as processes of one job; returns what ``subprocess.run`` does."""
    # --standalone: the agent binds a free port and keeps it, so nobody can take it in between.
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone',
               f'--nproc_per_node={processes}', *map(str, words)]  # fmt: skip
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
