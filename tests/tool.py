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


def run(name, *argv):
    """Run a tool as from its command line; returns its exit code."""
    try:
        tool(name).main([os.fspath(a) for a in argv])
    except SystemExit as e:
        return e.code or 0
    return 0
