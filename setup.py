import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'paca_mm'

# OpenMMLab's convention: what is not a Python module is found in `.mim` of the installed package.
ASSETS = ('configs', 'tools', 'model-index.yml')
CHECKOUT_ONLY = ('setup_env.py', 'torchvision_cpu_shim.py')  # tools that make the environment

# What the requirement files hold besides the OpenMMLab packages and what these need: torch, which
# everybody chooses for the machine, and the tools with which mmcv is built.
NOT_IN_EXTRAS = ('torch', 'torchvision', 'setuptools', 'wheel', 'ninja', 'psutil', 'click')


class BuildWithAssets(build_py):
    """Brings configs/ and tools/ along: as copies into a wheel, as links into an editable install.

    A command class, because `pip install -e .` runs neither `develop` nor anything else that could
    be told from `sys.argv`.
    """

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / PACKAGE / '.mim'
        if mim.exists():  # of an earlier build: what was removed since must not come along
            shutil.rmtree(mim)
        mim.mkdir(parents=True)
        for name in ASSETS:
            source = ROOT / name
            if not source.exists():
                continue
            if editable:
                (mim / name).symlink_to(Path('..', '..', name), target_is_directory=source.is_dir())
            elif source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.py[co]', '.*', *CHECKOUT_ONLY)
                shutil.copytree(source, mim / name, ignore=ignore)
            else:
                shutil.copyfile(source, mim / name)


def version():
    text = (ROOT / PACKAGE / '__init__.py').read_text()
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def requirements(name, leave_out=()):
    text = re.sub(r'(^|\s)#.*', '', (ROOT / name).read_text(), flags=re.MULTILINE)
    lines = (line.strip() for line in text.splitlines())
    return [x for x in lines if x and re.match(r'[\w.-]+', x).group() not in leave_out]


readme = ROOT / 'README.md'

setup(
    name=PACKAGE,
    version=version(),
    description='PaCa-ViT (Patch-to-Cluster attention, CVPR 2023) for OpenMMLab: mmdet, mmseg, '
    'mmpretrain',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author='The paca_mm authors',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    keywords='computer vision, object detection, segmentation, vision transformer, OpenMMLab',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={'': ['*.json', '*.txt', '*.yml', 'py.typed']},
    python_requires='>=3.10',
    # Deliberately next to nothing. mmengine, mmcv, mmdet, ... come from one of two families of
    # distributions with the same import names (see the extras); whichever were named here, pip
    # would lay it over the other one in somebody's working project. And torch has to be the build
    # that fits the machine and that mmcv was compiled with: pip must not come to replace it.
    install_requires=['numpy'],
    # With torch installed first and `pip install --no-build-isolation`, or mmcv has no ops.
    extras_require={
        'onedl': requirements('requirements.txt', NOT_IN_EXTRAS),
        'openmmlab': requirements('requirements/openmmlab.txt', NOT_IN_EXTRAS),
        'timm': ['timm>=1.0'],
        'dev': requirements('requirements/dev.txt'),
    },
    cmdclass={'build_py': BuildWithAssets},
    zip_safe=False,
)
