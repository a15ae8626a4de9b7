"""The one thing that pyproject.toml cannot say: OpenMMLab's tools look for configs in ``.mim``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'paca_mm'

# What is not a Python module, and is found in `.mim` of the installed package.
ASSETS = ('configs', 'tools', 'model-index.yml')


class BuildWithAssets(build_py):
    """Brings configs/ and tools/ along into a wheel, as copies.

    An editable install needs none: mim and this package look beside the package, and a second way to
    the same files makes ``mim train`` refuse a config that it finds twice.

    A command class, because `pip install -e .` runs neither `develop` nor anything else that could
    be told from `sys.argv`.
    """

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / PACKAGE / '.mim'
        if mim.exists():  # of an earlier build: what was removed since must not come along
            shutil.rmtree(mim)
        if editable:
            return
        mim.mkdir(parents=True)
        for name in ASSETS:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.py[co]', '.*')
                shutil.copytree(source, mim / name, ignore=ignore)
            elif source.exists():
                shutil.copyfile(source, mim / name)


setup(cmdclass={'build_py': BuildWithAssets}, zip_safe=False)
