"""Makes the virtual environment that paca_mm runs in, and checks it: ``make setup``.

    python3 tools/setup_env.py [--stack onedl|openmmlab] [--venv DIR] [--force]

The requirement file of the stack is installed paragraph by paragraph, because the order matters:
mmcv compiles its ops only if torch is importable while it is built, and says nothing if it is not.
Then come the tools for tests and lint, this checkout (editable), the mending of two faults that
environments of this ecosystem have (see ``mend_torchvision`` and ``mend_opencv``), and
``tools/doctor.py``, which checks the result. Only then a stamp is written into the environment,
with which the next run takes no time. A run that was interrupted can simply be repeated.

Standard library only, in the syntax of Python 3.8: an old Python has to get as far as the message
that says it is too old.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DEV_REQUIREMENTS = 'requirements/dev.txt'
SHIM = 'torchvision_cpu_shim'
STAMP = 'paca_mm_setup.json'
LOG = 'setup.log'
TAIL = 30  # lines of the log that a failure shows
HEARTBEAT = 60  # seconds after which a long step says that it is alive


class Stack(NamedTuple):
    requirements: str
    venv: str
    oldest: tuple[int, int]
    newest: tuple[int, int]
    tested: str


# The range of Pythons is the one for which the pinned torch and numpy have wheels and paca_mm's own
# syntax is understood.
STACKS = {
    'onedl': Stack('requirements.txt', '.venv', (3, 10), (3, 13), '3.11'),
    'openmmlab': Stack('requirements/openmmlab.txt', '.venv-openmmlab', (3, 10), (3, 11), '3.10'),
}

# Packages whose installation compiles: what to tell somebody who waits.
SLOW = {
    'mmcv': 'mmcv compiles its ops: about 10 minutes on 2 cores, once per machine',
    'torch': 'a large download, 0.2 to 3 GB',
}

# mmcv is only good if its ops load with this torch, and run where this torch runs. A wheel that pip
# finds in its cache may have been built without torch (then it has no ops), with another torch, or
# on a machine without a GPU.
CHECK_MMCV = """
import sys, torch
import mmcv.ops
compiled = mmcv.ops.get_compiling_cuda_version()
if torch.cuda.is_available() and compiled == 'not available':
    sys.exit('mmcv.ops was compiled without CUDA, but torch sees a GPU')
"""


class SetupError(Exception):
    """A failure with its explanation and cure, to be read by whoever typed ``make setup``."""


# Requirement files ------------------------------------------------------------------------------


def paragraphs(text: str) -> list[list[str]]:
    """The requirement lines of ``text``, one list for each blank-line separated paragraph."""
    result = []
    for block in re.split(r'\n\s*\n', text):
        lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in block.splitlines()]
        lines = [line for line in lines if line]
        if lines:
            result.append(lines)
    return result


def requirement_name(line: str) -> str:
    """``'onedl-mmcv==2.3.6'`` -> ``'onedl-mmcv'``."""
    match = re.match(r'[A-Za-z0-9][A-Za-z0-9._-]*', line)
    return match.group().lower().replace('_', '-') if match else line


def mmcv_requirement(lines: list[str]) -> str | None:
    """The line of a paragraph that asks for mmcv, on either stack."""
    return next((line for line in lines if requirement_name(line) in ('mmcv', 'onedl-mmcv')), None)


# What pip's output means --------------------------------------------------------------------------

# The first pattern that is found in the output explains it. pip reports an index that it cannot
# reach, too, as a version that it cannot find, hence the order.
EXPLANATIONS = (
    (
        r'No space left on device|\[Errno 28\]|Disk quota exceeded',
        'the disk is full. An environment takes 3 GB with a CPU-only torch and up to 10 GB with '
        'CUDA,\nand pip unpacks in the folder for temporary files.\n'
        'cure: free some space, or use another disk: make setup VENV=/other/disk/venv, '
        'TMPDIR=/other/disk/tmp',
    ),
    (
        r'name resolution|Name or service not known|NewConnectionError|Failed to establish a new '
        r'connection|Network is unreachable|ConnectTimeoutError|ReadTimeoutError|ProxyError'
        r'|NameResolutionError|Connection reset by peer',
        'the package index cannot be reached.\n'
        'cure: check the network, and where there is a proxy or a mirror of the package index, '
        'tell pip:\nHTTPS_PROXY=..., or `pip config set global.index-url ...`; '
        'then repeat the command, it goes on where it stopped',
    ),
    (
        r'CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError',
        'the certificate of the package index was not accepted.\n'
        'cure: behind a proxy that opens TLS, name its certificate: PIP_CERT=/path/to/cert.pem; '
        "check the machine's date",
    ),
    (
        r'CUDA_HOME environment variable is not set|nvcc(\'|"|:)? ?(not found|No such file)',
        'torch sees a GPU, so mmcv compiles its ops for CUDA, and the CUDA compiler (nvcc) was not '
        'found.\n'
        'cure: install the CUDA toolkit of the version that torch was built with and set '
        'CUDA_HOME;\nor, to use the CPU only: CUDA_VISIBLE_DEVICES= make setup',
    ),
    (
        r'The detected CUDA version .* mismatches',
        "the CUDA compiler (nvcc) is of another version than torch's CUDA.\n"
        'cure: install the CUDA toolkit of the version that the message above names and set '
        'CUDA_HOME',
    ),
    (
        r'Killed signal terminated program|fatal error: Killed|internal compiler error: Killed',
        'the machine ran out of memory while compiling.\ncure: compile one file at a time: '
        'MAX_JOBS=1 make setup',
    ),
    (
        r'Python\.h: No such file',
        'the headers of Python are missing.\n'
        'cure: install them (Debian, Ubuntu: apt install python{version}-dev; '
        'Fedora: dnf install python{version}-devel)',
    ),
    (
        r"command '[^']*(gcc|g\+\+|cc|c\+\+|clang)[^']*' failed: No such file"
        r"|unable to execute '[^']*(gcc|g\+\+|cc|c\+\+|clang)[^']*'"
        r'|(gcc|g\+\+|c\+\+): (command )?not found|No such file or directory: .*(gcc|g\+\+|c\+\+)',
        'there is no C++ compiler, and mmcv has to compile its ops.\n'
        'cure: install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++)',
    ),
    (
        r'ResolutionImpossible',
        'the pinned packages contradict one another, or something that is installed.\n'
        'cure: make the environment anew: remove its folder and repeat the command; requirement '
        'files\nor pip settings of your own (`pip config list`: constraint) may be the reason',
    ),
    (
        r'No matching distribution found|Could not find a version that satisfies',
        'the package index has no such package for this machine and Python {version}.\n'
        'cure: Linux on x86-64 with the tested Python ({tested}) has them all; where pip is told '
        'to use a mirror,\nsee that the mirror holds the package (`pip config list`)',
    ),
    (
        r'Permission denied|\[Errno 13\]',
        'a file or folder may not be written.\n'
        'cure: see that the checkout and the environment belong to you (`ls -l`), and do not mix '
        'sudo into it',
    ),
)


def explain(output: str, stack: Stack) -> str:
    """What a failed pip run means, with its cure."""
    for pattern, text in EXPLANATIONS:
        if re.search(pattern, output):
            version = '{}.{}'.format(*sys.version_info[:2])
            return text.format(version=version, tested=stack.tested)
    return 'the reason is in the lines above.\ncure: mend it and repeat the command'


# Pythons ------------------------------------------------------------------------------------------


def dotted(version: tuple[int, ...]) -> str:
    return '.'.join(str(part) for part in version)


def check_python(stack_name: str, version: tuple[int, ...], find=shutil.which) -> None:
    """Raises unless this Python can carry the stack; names one on this machine that can."""
    stack = STACKS[stack_name]
    if stack.oldest <= tuple(version[:2]) <= stack.newest:
        return
    fault = 'old' if tuple(version[:2]) < stack.oldest else 'new'
    suited = [f'{stack.oldest[0]}.{n}' for n in range(stack.oldest[1], stack.newest[1] + 1)]
    suited.sort(key=lambda candidate: candidate != stack.tested)  # the tested one first
    there = next((c for c in suited if _python_runs(find(f'python{c}'))), None)
    option = '' if stack_name == 'onedl' else f' STACK={stack_name}'
    cure = f'make setup{option} PYTHON=python{there or stack.tested}'
    if there is None:
        cure = (
            f'install Python {stack.tested} (Debian, Ubuntu: apt install '
            f'python{stack.tested}-venv python{stack.tested}-dev), then\n      {cure}'
        )
    raise SetupError(
        f'Python {dotted(version[:3])} is too {fault} for the {stack_name} stack.\n'
        f'found: {sys.executable}\n'
        f'expected: Python {dotted(stack.oldest)} to {dotted(stack.newest)}, '
        f'tested with {stack.tested}\n'
        f'cure: {cure}'
    )


def _python_runs(executable: str | None) -> bool:
    """Whether the command is a Python; the shims of version managers are there without one."""
    if executable is None:
        return False
    try:
        run = subprocess.run([executable, '-c', 'import venv, ensurepip'], capture_output=True)
    except OSError:
        return False
    return run.returncode == 0


def check_venv_module(find_spec=importlib.util.find_spec) -> None:
    missing = [name for name in ('venv', 'ensurepip') if find_spec(name) is None]
    if missing:
        version = dotted(sys.version_info[:2])
        raise SetupError(
            f'this Python cannot make virtual environments: its module {missing[0]} is missing.\n'
            f'found: {sys.executable}\n'
            f'cure: Debian and Ubuntu keep it in a package of its own: '
            f'apt install python{version}-venv python{version}-dev;\n'
            f'      or use another Python: make setup PYTHON=...'
        )


# The environment ----------------------------------------------------------------------------------


class Environment:
    """A virtual environment, and how to run things in it."""

    def __init__(self, folder: Path, stack_name: str):
        self.folder = folder
        self.stack_name = stack_name
        self.stack = STACKS[stack_name]
        self.python = folder / 'bin' / 'python'
        self.log = folder / LOG
        self.stamp = folder / STAMP

    # -- state

    def site_packages(self) -> Path:
        found = sorted(self.folder.glob('lib/python*/site-packages'))
        return found[0] if found else self.folder / 'lib'

    def python_version(self) -> str:
        """As ``pyvenv.cfg`` has it; empty if there is no such file."""
        try:
            text = (self.folder / 'pyvenv.cfg').read_text()
        except OSError:
            return ''
        match = re.search(r'^version(?:_info)?\s*=\s*(\S+)', text, re.MULTILINE)
        return match.group(1) if match else ''

    def fingerprint(self) -> str:
        """Changes with anything that would make setup do something else."""
        digest = hashlib.sha256(f'{ROOT}\n{self.folder}\n{self.python_version()}\n'.encode())
        for name in (
            self.stack.requirements,
            DEV_REQUIREMENTS,
            'setup.py',
            'paca_mm/__init__.py',  # the version
            'tools/setup_env.py',
            f'tools/{SHIM}.py',
        ):
            digest.update(name.encode())
            digest.update((ROOT / name).read_bytes())
        return digest.hexdigest()

    def installed(self) -> list[str]:
        """Names of the installed distributions (with versions) and of the ``.pth`` files."""
        entries = self.site_packages().glob('*')
        return sorted(entry.name for entry in entries if entry.suffix in ('.dist-info', '.pth'))

    def is_ready(self) -> bool:
        """Whether a stamp says so, and nothing was changed, upgraded or removed since."""
        try:
            stamp = json.loads(self.stamp.read_text())
            return (
                stamp['fingerprint'] == self.fingerprint()
                and set(stamp['installed']) <= set(self.installed())
                and os.access(str(self.python), os.X_OK)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write_stamp(self) -> None:
        stamp = {'fingerprint': self.fingerprint(), 'installed': self.installed()}
        unfinished = self.stamp.with_suffix('.part')
        unfinished.write_text(json.dumps(stamp, indent=1))
        os.replace(str(unfinished), str(self.stamp))

    # -- running

    def variables(self) -> dict[str, str]:
        """The environment variables for pip and for the checks."""
        # With these two set, packages of another installation would pass for installed here.
        env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
        env['PATH'] = f'{self.python.parent}{os.pathsep}{env.get("PATH", "")}'  # ninja is there
        env['VIRTUAL_ENV'] = str(self.folder)
        env['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
        env['PIP_USER'] = '0'
        env['MMCV_WITH_OPS'] = '1'
        env.setdefault('MAX_JOBS', str(compile_jobs()))
        return env

    def query(self, code: str) -> tuple[bool, str]:
        """Runs ``code`` in the environment's Python: whether it succeeded, and what it printed."""
        run = subprocess.run(
            [str(self.python), '-c', code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.variables(),
            cwd=str(self.folder),  # not the checkout: `import paca_mm` must find the installed one
        )
        return run.returncode == 0, run.stdout.strip()

    def pip(self, *arguments: str) -> None:
        """Runs pip; its output goes to the log, whose end a failure shows."""
        code, output = self.try_pip(*arguments)
        if code != 0:
            raise SetupError(f'{tail(output)}\n\n{explain(output, self.stack)}{self.see_log()}')

    def try_pip(self, *arguments: str) -> tuple[int, str]:
        command = [str(self.python), '-m', 'pip', *arguments]
        with self.log.open('a') as log:
            log.write('\n$ {}\n'.format(' '.join(command)))
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.variables(),
                cwd=str(ROOT),
                start_new_session=True,
            )
            try:
                code = wait(process)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)  # pip and the compilers it started
                process.wait()
                raise
        with self.log.open(errors='replace') as log:
            log.seek(start)
            return code, log.read()

    def see_log(self) -> str:
        return f'\nlog: {shown(self.log)}'


def compile_jobs() -> int:
    """As many compilers at once as there are cores, each with 2 GB of memory to itself."""
    try:
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return os.cpu_count() or 1
    return max(1, min(cores, memory // 2**31))


def wait(process: subprocess.Popen) -> int:
    """Waits for a process, saying every minute that it is still at work."""
    begun = time.monotonic()
    while True:
        try:
            return process.wait(timeout=HEARTBEAT)
        except subprocess.TimeoutExpired:
            minutes = round((time.monotonic() - begun) / 60)
            say(f'    ... still at it, {minutes} min')


def tail(output: str, lines: int = TAIL) -> str:
    return '\n'.join(f'  | {line}' for line in output.strip().splitlines()[-lines:])


def shown(path: Path) -> str:
    """A path as the user would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def say(text: str) -> None:
    print(text, flush=True)


# The steps ----------------------------------------------------------------------------------------


def make_venv(env: Environment) -> None:
    """A virtual environment with a working pip, where there is none yet."""
    has_pip = 'import pip, sys; print("{}.{}.{}".format(*sys.version_info))'
    if env.folder.exists() and not is_venv_or_empty(env.folder):
        raise SetupError(
            f'{shown(env.folder)} exists and is not a virtual environment; it was left alone.\n'
            'cure: choose another folder (make VENV=..., or --venv), or remove this one'
        )
    if env.python.exists():
        works, version = env.query(has_pip)
        if works:
            check_kept_python(env, version)
            # The checkout is installed editable by PEP 660, which an old pip cannot.
            env.log.write_text('')
            env.pip('install', 'pip>=23.1')
            return
    if env.folder.exists():
        say(f'    {shown(env.folder)} is incomplete or broken: making it anew')
    check_python(env.stack_name, tuple(sys.version_info[:3]))
    check_venv_module()
    run = subprocess.run(
        [sys.executable, '-m', 'venv', '--clear', str(env.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        raise SetupError(f'{tail(run.stdout)}\n\n{explain(run.stdout, env.stack)}')
    env.log.write_text(run.stdout)
    env.pip('install', '--upgrade', 'pip')


def is_venv_or_empty(folder: Path) -> bool:
    """Whether a folder may be taken, and cleared if it is broken.

    ``venv`` makes the empty folders first and ``pyvenv.cfg`` next. A folder with files and without
    ``pyvenv.cfg`` is something else, say a whole Python installation.
    """
    if not folder.is_dir():
        return False
    return (folder / 'pyvenv.cfg').exists() or not any(p.is_file() for p in folder.rglob('*'))


def check_kept_python(env: Environment, version: str) -> None:
    """An environment that is there keeps its Python, whichever one runs this script."""
    numbers = tuple(int(part) for part in version.split('.'))
    if not env.stack.oldest <= numbers[:2] <= env.stack.newest:
        raise SetupError(
            f'{shown(env.folder)} has Python {version}, which the {env.stack_name} stack does not '
            f'run on.\nexpected: Python {dotted(env.stack.oldest)} to {dotted(env.stack.newest)}\n'
            f'cure: rm -r {shown(env.folder)}, and make setup PYTHON=python{env.stack.tested}'
        )
    if numbers[:2] != sys.version_info[:2]:
        say(
            f'    kept: it has Python {version}, this is {dotted(sys.version_info[:3])}. '
            f'To change: rm -r {shown(env.folder)}'
        )


def install_paragraph(env: Environment, lines: list[str]) -> None:
    wanted, others = env.folder / 'setup-wanted.txt', env.folder / 'setup-others.txt'
    stack = paragraphs((ROOT / env.stack.requirements).read_text())
    wanted.write_text('\n'.join(lines) + '\n')
    # The rest of the stack is a constraint: what one paragraph drags in is what a later one asks
    # for, and neither a later one nor dev.txt can move what is there.
    others.write_text(''.join(f'{line}\n' for part in stack if part != lines for line in part))
    try:
        env.pip('install', '--no-build-isolation', '-r', str(wanted), '-c', str(others))
    finally:
        wanted.unlink()
        others.unlink()
    names = [requirement_name(line) for line in lines]
    if 'torchvision' in names:
        mend_torchvision(env)
    mmcv = mmcv_requirement(lines)
    if mmcv is not None:
        mend_opencv(env)  # which mmcv imports
        ensure_mmcv_ops(env, mmcv)


def ensure_mmcv_ops(env: Environment, requirement: str) -> None:
    """Builds mmcv again if the one that pip took has no ops that work here."""
    works, output = env.query(CHECK_MMCV)
    if works:
        return
    importable, why = env.query('import mmcv')
    if not importable:  # the fault is not in the ops, and compiling for ten minutes mends nothing
        raise SetupError(
            f'mmcv was installed, but cannot be imported.\nfound: {last_line(why)}\n'
            'cure: mend what the line above names and repeat the command'
        )
    say(f'    {last_line(output)}')
    say('    pip had a wheel of mmcv whose ops do not work here: ' + SLOW['mmcv'])
    options = ['--no-deps', '--force-reinstall', '--no-build-isolation', '-v']
    # Out of pip's cache, or the next environment on this machine would be given the same wheel.
    if not forget_cached_wheel(env, requirement):
        options.append('--no-cache-dir')
    env.pip('install', *options, '--no-binary', requirement_name(requirement), requirement)
    works, after = env.query(CHECK_MMCV)
    if not works:
        built = env.log.read_text(errors='replace')
        raise SetupError(
            f'{tail(built)}\n\nmmcv was built, but its ops do not work.\n'
            f'found: {last_line(after)}\n'
            'expected: `import mmcv.ops` works\n'
            f'cure: see in the log why the ops were left out; {compiler_hint()}{env.see_log()}'
        )


def forget_cached_wheel(env: Environment, requirement: str) -> bool:
    """Drops the built wheels of this version and Python from pip's cache; False: none was there."""
    name, _, version = requirement.partition('==')
    stem = f'{name.replace("-", "_")}-{version}' if version else name.replace('-', '_')
    python = 'cp{}{}'.format(*env.python_version().split('.')[:2])
    # A build without ops is plain Python in pip's eyes, and named so.
    answers = [env.try_pip('cache', 'remove', f'{stem}-{tag}*')[1] for tag in (python, 'py')]
    return any(re.search(r'Files removed: [1-9]', answer) for answer in answers)


def compiler_hint() -> str:
    if shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++'):
        version = dotted(sys.version_info[:2])
        return (
            'most often it is the headers of Python\n'
            f'(Debian, Ubuntu: apt install python{version}-dev)'
        )
    return 'there is no C++ compiler here\n(Debian, Ubuntu: apt install g++)'


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else 'no output'


def mend_torchvision(env: Environment) -> None:
    """Puts ``torchvision_cpu_shim`` into the environment, exactly if torchvision needs it."""
    site_packages = env.site_packages()
    module, pth = site_packages / f'{SHIM}.py', site_packages / f'{SHIM}.pth'
    was_there = pth.exists()
    for path in (pth, module):  # in this order: a .pth without its module complains at each start
        if path.exists():
            path.unlink()
    works, output = env.query('import torchvision')
    if works or 'torchvision::nms does not exist' not in output:
        return  # another fault than the one that the shim mends; the doctor will tell
    has_cuda, _ = env.query('import sys, torch; sys.exit(torch.version.cuda is None)')
    if has_cuda:
        return
    shutil.copyfile(str(ROOT / 'tools' / f'{SHIM}.py'), str(module))
    pth.write_text(f'import {SHIM}; {SHIM}.install()\n')
    if not was_there:
        say(f'    torch has no CUDA and torchvision has: put {SHIM} into the environment')


def mend_opencv(env: Environment) -> None:
    """Replaces opencv's files by those of the build for machines without a display."""
    works, output = env.query('import cv2')
    if works or 'cannot open shared object file' not in output:
        return
    found, version = env.query(
        "from importlib.metadata import version; print(version('opencv-python'))"
    )
    if not found:
        return
    say(f'    no display libraries here ({last_line(output)}): taking opencv-python-headless')
    # Over the other: both own the folder cv2, and mmcv asks for the other one by name.
    headless = f'opencv-python-headless=={version}'
    env.pip('install', '--no-deps', '--force-reinstall', headless)


def install_checkout(env: Environment) -> None:
    env.pip('install', '--no-build-isolation', '--no-deps', '-e', str(ROOT))


def mend(env: Environment) -> None:
    mend_torchvision(env)
    mend_opencv(env)


def verify(env: Environment) -> None:
    doctor = subprocess.run(
        [str(env.python), str(ROOT / 'tools' / 'doctor.py')], env=env.variables(), cwd=str(ROOT)
    )
    if doctor.returncode != 0:
        raise SetupError(
            'the environment is installed but not usable: see the lines marked `fail` above.'
            f'{env.see_log()}'
        )


def steps(env: Environment) -> list[tuple[str, Callable[[], None]]]:
    """Titles and actions, in order."""
    plan: list[tuple[str, Callable[[], None]]] = [
        (f'virtual environment {shown(env.folder)}', lambda: make_venv(env))
    ]
    for file in (env.stack.requirements, DEV_REQUIREMENTS):
        for lines in paragraphs((ROOT / file).read_text()):
            plan.append((title(lines), lambda lines=lines: install_paragraph(env, lines)))
    plan.append(('paca_mm itself, editable', lambda: install_checkout(env)))
    plan.append(('mending torchvision and opencv where they need it', lambda: mend(env)))
    plan.append(('checking the environment', lambda: verify(env)))
    return plan


def title(lines: list[str]) -> str:
    names = [requirement_name(line) for line in lines]
    text = ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
    hints = [hint for name, hint in SLOW.items() if name in (n.split('-')[-1] for n in names)]
    return f'{text} ({hints[0]})' if hints else text


def set_up(env: Environment, force: bool = False) -> None:
    if not force and env.is_ready():
        say(f'{shown(env.folder)} is ready ({env.stack_name} stack)')
        return
    with one_at_a_time():
        if not force and env.is_ready():  # whoever was waited for has done it
            return
        begun = time.monotonic()
        free = shutil.disk_usage(str(ROOT)).free / 2**30
        say(f'setting up the {env.stack_name} stack in {shown(env.folder)}')
        if free < 10:
            say(f'note: {free:.1f} GB of disk are free; with CUDA it takes up to 10 GB')
        plan = steps(env)
        for number, (name, action) in enumerate(plan, 1):
            say(f'[{number}/{len(plan)}] {name}')
            try:
                action()
            except SetupError as error:
                raise SetupError(f'step {number} of {len(plan)} failed: {name}\n{error}') from None
        env.write_stamp()
        say(f'ready after {time.monotonic() - begun:.0f} s: {shown(env.folder)}')


@contextlib.contextmanager
def one_at_a_time():
    """Keeps a second setup of this checkout waiting until the first has ended."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        yield
        return
    with open(__file__) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another setup of this checkout is running: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def end_as_by_ctrl_c() -> None:
    """Lets a closed terminal or a `kill` end pip, too."""

    def stop(number, frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, stop)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description='Make the virtual environment of this checkout.')
    parser.add_argument('--stack', choices=sorted(STACKS), default='onedl', help='default: onedl')
    parser.add_argument('--venv', metavar='DIR', help='default: .venv, or .venv-openmmlab')
    parser.add_argument('--force', action='store_true', help='even if the environment is ready')
    arguments = parser.parse_args(argv)
    # os.path.abspath, not resolve(): a link to a folder on another disk stays the user's link.
    folder = Path(os.path.abspath(arguments.venv or str(ROOT / STACKS[arguments.stack].venv)))
    try:
        set_up(Environment(folder, arguments.stack), arguments.force)
    except SetupError as error:
        print(f'\nerror: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        cure = 'see that the file may be read and written'
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = 'the disk is full: free some space, or use another disk: make setup VENV=...'
        print(f'\nerror: {error}\ncure: {cure}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on where it stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    end_as_by_ctrl_c()
    sys.exit(main())
