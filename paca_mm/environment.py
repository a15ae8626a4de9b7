"""What an environment must hold for paca_mm, checked piece by piece.

``paca-mm doctor`` prints :func:`check_environment`. Nothing but the standard library is needed
here, and nothing heavy inside the functions that cannot be missing: a broken environment has to be
reported, not to break the report.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from paca_mm import threads
from paca_mm.errors import UserError
from paca_mm.paths import command_line

OK, WARN, FAIL = 'ok', 'warn', 'fail'

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 1)
LITTLE_DISK = 5  # GB; a run with its checkpoints and a dataset

# Two families of distributions bring the same modules. The first distribution of a row is the one
# to install; the others are variants that may be met.
STACKS: dict[str, dict[str, tuple[str, ...]]] = {
    'onedl': {
        'mmengine': ('onedl-mmengine',),
        'mmcv': ('onedl-mmcv', 'onedl-mmcv-lite'),
        'mmdet': ('onedl-mmdetection',),
        'mmseg': ('onedl-mmsegmentation',),
        'mmpretrain': ('onedl-mmpretrain',),
    },
    'openmmlab': {
        'mmengine': ('mmengine', 'mmengine-lite'),
        'mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full'),
        'mmdet': ('mmdet',),
        'mmseg': ('mmsegmentation',),
        'mmpretrain': ('mmpretrain',),
    },
}
HOSTS = {
    'mmdet': 'detection configs need it',
    'mmseg': 'segmentation configs and the decode heads need it',
    'mmpretrain': 'classification configs need it',
}

_SETUP = 'make setup in a checkout of paca_mm'


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, and what to do about it."""

    status: str
    name: str
    found: str
    cure: str = ''


def check_environment() -> list[Check]:
    """All checks, in the order in which their faults should be fixed."""
    steps: list[Callable[[], Iterable[Check]]] = [
        check_python,
        check_package,
        check_torch,
        check_threads,
        check_torchvision,
        check_opencv,
        check_stack,
        check_mm_packages,
        check_mmcv_ops,
        check_registry,
        check_models,
        check_tensorboard,
        check_disk,
    ]
    checks: list[Check] = []
    # Packages of this ecosystem greet with warnings and banners; they are not the report.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter('ignore')
        for step in steps:
            checks.extend(step())
    return checks


def is_usable(checks: Iterable[Check]) -> bool:
    return all(check.status != FAIL for check in checks)


def require(host: str) -> None:
    """See that a host package can be imported before anything of it is asked for.

    Raises:
        UserError: It cannot; the message says how to fix it.
    """
    error = _import_error(host)
    if error:
        install = f'pip install --no-build-isolation {STACKS[_stack()][host][0]}'
        says = f'{command_line("doctor")} says what is wrong with it.'
        cure = says if _exists(host) else install
        raise UserError(
            f'this config needs the package {host!r}, which cannot be imported ({error}).\n'
            f'  to fix it: {cure}'
        )


# The checks ---------------------------------------------------------------------------------------


def check_python() -> list[Check]:
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed = '.'.join(map(str, OLDEST_PYTHON))
        return [Check(FAIL, 'Python', found, f'use Python {needed} or newer')]
    return [Check(OK, 'Python', found)]


def check_package() -> list[Check]:
    """That ``import paca_mm`` works by installation, not by the luck of the working directory."""
    version = _version('paca_mm')
    if version is None:
        return [
            Check(
                FAIL,
                'paca_mm',
                'not installed',
                'pip install --no-build-isolation --no-deps -e . in the checkout',
            )
        ]
    return [Check(OK, 'paca_mm', version)]


def check_torch() -> list[Check]:
    error = _import_error('torch')
    if error:
        cure = f'pip install torch, or {_SETUP}'
        return [Check(FAIL, 'torch', error, cure)]
    import torch

    version = str(torch.__version__)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        device = f'CUDA {torch.version.cuda}, {count} x {torch.cuda.get_device_name(0)}'
    elif torch.version.cuda:
        device = f'built with CUDA {torch.version.cuda}, no GPU seen'
    else:
        device = 'CPU only'
    found = f'{version} ({device})'
    if _numbers(version) < OLDEST_TORCH:
        needed = '.'.join(map(str, OLDEST_TORCH))
        cure = f'paca_mm is tested with torch {needed} and newer'
        return [Check(WARN, 'torch', found, cure)]
    return [Check(OK, 'torch', found)]


def check_threads() -> list[Check]:
    """Torch has as many threads on a CPU as it gets cores."""
    if _import_error('torch'):
        return []  # said already
    import torch

    now = threads.situation(torch.get_num_threads())
    load = '' if now.load is None else f', load {now.load:.1f}'
    found = f'{now.threads} of torch, {now.cores} cores{load}'
    if fault := threads.advice(now):
        return [Check(WARN, 'threads', fault[0], f'on a CPU: {fault[1]}')]
    return [Check(OK, 'threads', found)]


def check_torchvision() -> list[Check]:
    error = _import_error('torchvision')
    if error is None:
        return [Check(OK, 'torchvision', _version('torchvision') or 'importable')]
    if not _exists('torchvision'):
        cure = 'mmpretrain needs it: pip install torchvision, of the release that fits torch'
        return [Check(WARN, 'torchvision', error, cure)]
    cure = (
        'install the build of torchvision that fits this torch (a CPU-only torch wants the CPU '
        'build), or make setup, which fixes it'
        if 'torchvision::nms' in error
        else 'install the release of torchvision that fits this torch'
    )
    return [Check(FAIL, 'torchvision', error, cure)]


def check_opencv() -> list[Check]:
    error = _import_error('cv2')
    if error is None:
        import cv2

        return [Check(OK, 'opencv', getattr(cv2, '__version__', 'importable'))]
    cure = 'pip install opencv-python-headless'
    if 'cannot open shared object file' in error:
        version = _version('opencv-python')
        pin = f'=={version}' if version else ''
        cure = f'pip install --no-deps --force-reinstall opencv-python-headless{pin}'
    return [Check(FAIL, 'opencv', error, cure)]


def check_stack() -> list[Check]:
    """One family of distributions, not both: they write into the same folders."""
    installed = {stack: _installed(stack) for stack in STACKS}
    present = [stack for stack, names in installed.items() if names]
    if len(present) > 1:
        names = [name for stack in present for name in installed[stack]]
        cure = (
            f'their files lie over one another: pip uninstall -y {" ".join(names)}, then install '
            'one of the two again'
        )
        return [Check(FAIL, 'stack', f'{" and ".join(present)} at once', cure)]
    return [Check(OK, 'stack', present[0] if present else 'none')]


def check_mm_packages() -> list[Check]:
    stack = _stack()
    checks = []
    for module, names in STACKS[stack].items():
        version = next((v for v in map(_version, names) if v), None)
        error = _import_error(module)
        if error is None:
            checks.append(Check(OK, module, version or 'importable, not installed by pip'))
            continue
        required = module not in HOSTS
        install = f'pip install --no-build-isolation {names[0]}'
        if not _exists(module):
            cure = f'{install}, or {_SETUP}' if required else f'{HOSTS[module]}: {install}'
            checks.append(Check(FAIL if required else WARN, module, 'missing', cure))
        else:
            if _is_torchvisions(error):
                checks.append(Check(WARN, module, 'cannot start', 'see torchvision, above'))
                continue
            # It is there and does not start; paca_mm's models do not need the hosts, their users
            # do, so this is never fine.
            found = f'{version}: {error}' if version else error
            checks.append(Check(FAIL, module, found, f'see the message, or {_SETUP}'))
    return checks


def check_mmcv_ops() -> list[Check]:
    if not _exists('mmcv') or _import_error('mmcv'):
        return []  # said already
    names = STACKS[_stack()]['mmcv']
    full, lite = names[0], [name for name in names[1:] if _version(name)]
    if _version(full):
        full = f'{full}=={_version(full)}'
    rebuild = (
        f'pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps {full} '
        '(with torch installed, a C++ compiler and the headers of Python; 10 minutes)'
    )
    error = _import_error('mmcv.ops')
    if error and _is_torchvisions(error):
        return []  # said already
    if error:
        cure = f'pip uninstall -y {lite[0]}, then {rebuild}' if lite else rebuild
        return [Check(FAIL, 'mmcv.ops', error, cure)]
    import mmcv.ops
    import torch

    compiled = mmcv.ops.get_compiling_cuda_version()
    if torch.cuda.is_available() and compiled == 'not available':
        found = 'compiled without CUDA, but torch sees a GPU'
        cure = f'with the CUDA toolkit (nvcc) installed: {rebuild}'
        return [Check(FAIL, 'mmcv.ops', found, cure)]
    cuda = 'without CUDA' if compiled == 'not available' else f'with CUDA {compiled}'
    return [Check(OK, 'mmcv.ops', f'compiled {cuda}')]


def check_registry() -> list[Check]:
    """Every backbone builds, in the scope of mmengine and of each host that starts."""
    if _import_error('mmengine') or _import_error('torch'):
        return []
    # An ImportError in here would reach the user of a config as "is not in the registry".
    error = _import_error('paca_mm.models')
    if error:
        return [Check(FAIL, 'paca_mm.models', error, f'see the message, or {_SETUP}')]
    from mmengine.registry import DefaultScope

    from .families import families

    toys = [(f.backbone, f.toy) for f in families().values() if f.backbone and f.toy]
    # Their registries import it late, and what they say then no longer names it.
    stopped = HOSTS if _exists('torchvision') and _import_error('torchvision') else ()
    checks = []
    for scope, (backbone, toy) in product(('mmengine', *HOSTS), toys):
        if _import_error(f'{scope}.registry') or scope in stopped:
            continue
        name = f'{backbone} in {scope}'
        try:
            models = importlib.import_module(f'{scope}.registry').MODELS
            with DefaultScope.overwrite_default_scope(scope):
                models.build({'type': f'paca_mm.{backbone}', **toy})
        except Exception as exception:
            cure = 'if paca_mm is installed, please report it with the output of doctor --json'
            checks.append(Check(FAIL, name, _first_line(exception), cure))
        else:
            checks.append(Check(OK, name, 'resolves and builds'))
    return checks


def check_models() -> list[Check]:
    """The toy backbone of every family computes."""
    if any(_import_error(name) for name in ('mmengine', 'torch', 'paca_mm.models')):
        return []  # said already
    import torch

    from .families import families, load_member

    checks = []
    for family in families().values():
        if not (family.backbone and family.toy):
            continue
        try:
            with torch.no_grad():
                load_member(family.backbone)(**family.toy).eval()(torch.zeros(1, 3, 64, 64))
        except Exception as exception:
            cure = 'please report it with the output of doctor --json'
            checks.append(Check(FAIL, family.backbone, _first_line(exception), cure))
        else:
            checks.append(Check(OK, family.backbone, 'computes features of a 64x64 image'))
    return checks


def check_tensorboard() -> list[Check]:
    """That ``TensorboardVisBackend`` in a config has its package; nothing else needs it."""
    if _import_error('mmengine') or _import_error('torch'):
        return []
    if _import_error('torch.utils.tensorboard') is None:
        return [Check(OK, 'tensorboard', _version('tensorboard') or 'importable')]
    found = 'not installed; a TensorboardVisBackend in a config needs it (pip install tensorboard)'
    return [Check(OK, 'tensorboard', found)]


def check_disk(folder: Path | None = None) -> list[Check]:
    free = shutil.disk_usage(folder or Path.cwd()).free / 2**30
    found = f'{free:.0f} GB free here' if free >= 10 else f'{free:.1f} GB free here'
    if free < LITTLE_DISK:
        return [Check(WARN, 'disk', found, 'checkpoints and datasets want more: free some space')]
    return [Check(OK, 'disk', found)]


# The report ---------------------------------------------------------------------------------------


def as_table(checks: list[Check]) -> str:
    """Aligned lines ``status  name  found  -> cure`` and a verdict."""
    names = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        line = f'{check.status:<4}  {check.name:<{names}}  {check.found}'
        lines.append(f'{line}  -> {check.cure}' if check.cure else line)
    failed = sum(check.status == FAIL for check in checks)
    warned = sum(check.status == WARN for check in checks)
    if failed:
        verdict = f'not usable: {failed} to fix, the first one first'
    elif warned:
        verdict = f'usable, with {warned} warning{"s" if warned > 1 else ""}'
    else:
        verdict = 'usable'
    return '\n'.join([*lines, verdict])


def as_json(checks: list[Check]) -> str:
    """The same for a bug report."""
    report: dict[str, Any] = {
        'python': platform.python_version(),
        'platform': f'{platform.system()} {platform.machine()}',
        'usable': is_usable(checks),
        'checks': [asdict(check) for check in checks],
    }
    with contextlib.suppress(Exception):  # whatever a broken environment raises is reported above
        from mmengine.utils.dl_utils import collect_env

        with contextlib.redirect_stdout(sys.stderr):
            report['mmengine'] = {key: str(value) for key, value in collect_env().items()}
    return json.dumps(report, indent=2)


# Looking ------------------------------------------------------------------------------------------


def _import_error(module: str) -> str | None:
    """Why a module cannot be imported, in one line; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # these packages raise anything, AssertionError included
        return _first_line(error)
    return None


def _is_torchvisions(error: str) -> bool:
    """Whether a package fails because torchvision, which it imports, does."""
    return 'torchvision' in error and _import_error('torchvision') is not None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split('\n')[0]
    if len(text) > 160:
        text = text[:157] + '...'
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """``'2.13.0+cpu'`` -> ``(2, 13)``."""
    return tuple(int(part) for part in version.split('+')[0].split('.')[:2] if part.isdigit())


def _installed(stack: str) -> list[str]:
    return [name for names in STACKS[stack].values() for name in names if _version(name)]


def _stack() -> str:
    """The family that is installed, or the one that we recommend."""
    return next((stack for stack in STACKS if _installed(stack)), 'onedl')
