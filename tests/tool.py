"""Running the command lines of ``tools/`` inside the test process."""

import importlib.util
import os

from paca_mm.engine.paths import assets_root


def tool(name):
    """The module of ``tools/NAME.py``; the folder is no package."""
    spec = importlib.util.spec_from_file_location(
        f'tools_{name}', assets_root() / f'tools/{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
