"""Make the virtual environment of this checkout, or see that it is ready: ``make setup``.

uv does the work. What it cannot know stands here: mmcv compiles its ops against the torch that is
installed, so the paragraphs of a requirement file are installed one after the other, without build
isolation; a cached mmcv may have been built for another torch; PyPI's torchvision is a CUDA build
also beside a torch without CUDA; a server has no display libraries for opencv.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELP = 'docs/troubleshooting.md says what to do about the most frequent faults.'
DEV = 'requirements/dev.txt'
DOCS = 'requirements/docs.txt'
STACKS = {'onedl': 'requirements.txt', 'openmmlab': 'requirements/openmmlab.txt'}

#: pip's settings, and what uv calls them; uv reads neither pip's files nor its variables.
SETTINGS = {
    'index-url': 'UV_DEFAULT_INDEX',
    'extra-index-url': 'UV_INDEX',
    'find-links': 'UV_FIND_LINKS',
    'constraint': 'UV_CONSTRAINT',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
}

#: Appended to torchvision's extension.py: two operators are declared that only its CUDA build has.
DECLARE = """
# Added by paca_mm's setup: this torch has no CUDA, so that the operators below cannot be loaded.
if not _has_ops():
    _declared = torch.library.Library('torchvision', 'FRAGMENT')
    for _name in ('nms', 'qnms'):
        _declared.define(_name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
"""


def paragraphs(text: str) -> list[list[str]]:
    """The requirements of a file, a list for each paragraph; comments are left out."""
    parts = re.split(r'\n\s*\n', re.sub(r'(^|\s)#.*', '', text, flags=re.MULTILINE))
    return [
        lines for part in parts if (lines := [x.strip() for x in part.split('\n') if x.strip()])
    ]


def uv_settings(pip_config: str, environ: dict[str, str]) -> dict[str, str]:
    """What ``pip config list`` prints, as variables for uv; those that are set already stay."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^[\w:.]+\.([\w-]+)='(.*)'$", pip_config, re.MULTILINE):
        if SETTINGS.get(key):  # later lines win: pip prints the environment last
            glue = ',' if key == 'find-links' else ' '
            found[SETTINGS[key]] = glue.join(value.replace('\\n', ' ').split())
    if 'UV_INDEX' in found:  # pip takes the best version of all indexes, not the first index
        found['UV_INDEX_STRATEGY'] = 'unsafe-best-match'
    return {key: value for key, value in found.items() if key not in environ}


class Environment:
    """A virtual environment and the uv in it."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.folder, self.python, self.stack = folder, folder / 'bin' / 'python', stack
        self.variables = dict(os.environ)

    def make(self) -> None:
        ours = (self.folder / 'pyvenv.cfg').exists()
        if self.folder.exists() and not ours and any(self.folder.iterdir()):
            sys.exit(f'error: {self.folder} is no virtual environment: choose another with VENV=')
        if not (ours and self.works('import pip')):
            run([sys.executable, '-m', 'venv', '--clear', str(self.folder)])
        pip = [str(self.python), '-m', 'pip']
        if not self.works('import uv'):
            run([*pip, 'install', '--quiet', 'uv>=0.9'])
        config = subprocess.run([*pip, 'config', 'list'], capture_output=True, text=True).stdout
        self.variables |= uv_settings(config, self.variables)

    def install(self, *words: str) -> None:
        uv = [str(self.python), '-m', 'uv', 'pip', 'install', '--python', str(self.python)]
        run([*uv, '--no-build-isolation', *words], self.variables)

    def works(self, code: str) -> bool:
        return self.python.exists() and self.fault(code) is None

    def fault(self, code: str) -> str | None:
        done = subprocess.run([str(self.python), '-c', code], capture_output=True, text=True)
        return None if done.returncode == 0 else (done.stderr.strip() or 'it died').splitlines()[-1]

    def install_stack(self) -> None:
        file = STACKS[self.stack]
        for lines in paragraphs((ROOT / file).read_text()):
            mmcv = next((line for line in lines if re.match(r'(onedl-)?mmcv\b', line)), None)
            if mmcv and not self.works('import mmcv'):
                lines = [self.wheel_of(mmcv)]
            self.install(*lines, '-c', str(ROOT / file))
            self.fix_torchvision()
            if mmcv and (fault := self.fault('import mmcv.ops')):
                self.fix_opencv()
                if fault := self.fault('import mmcv.ops'):
                    print(f'the ops of this mmcv do not work ({fault}): compiling it again')
                    self.install('--no-deps', '--reinstall', self.wheel_of(mmcv, again=True))
                    if fault := self.fault('import mmcv.ops'):
                        sys.exit(f'error: mmcv was compiled, but has no ops: {fault}\n{HELP}')
        # Compiled, all packages, as pip does: the first start of every tool would be slow otherwise.
        self.install('-r', str(ROOT / DEV), '-c', str(ROOT / file), '--compile-bytecode')
        self.fix_opencv()
        self.install('--no-deps', '-e', str(ROOT))

    def install_docs(self) -> None:
        """What `make docs` needs besides; nothing else does."""
        if not self.works('import furo, myst_parser, sphinx_copybutton'):
            self.make()  # the settings for uv
            self.install('-r', str(ROOT / DOCS), '-c', str(ROOT / STACKS[self.stack]))

    def wheel_of(self, requirement: str, again: bool = False) -> str:
        """Compile a wheel, once for each torch and Python: uv's cache would not tell them apart."""
        code = (
            "import sys, torch; print(f'torch{torch.__version__}-{sys.implementation.cache_tag}')"
        )
        kind = subprocess.check_output([str(self.python), '-c', code], text=True).strip()
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'paca_mm' / kind
        name, _, version = requirement.replace('-', '_').partition('==')
        if again or not [*cache.glob(f'{name}-{version}-*.whl')]:  # the new one takes its name
            print('mmcv compiles its ops: about ten minutes, once per machine', flush=True)
            pip = [str(self.python), '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
            run([*pip, '--no-cache-dir', '-w', str(cache), requirement])
        return str(next(cache.glob(f'{name}-{version}-*.whl')))

    def fix_torchvision(self) -> None:
        fault = self.fault('import torchvision') or ''
        if 'torchvision::nms does not exist' not in fault:
            return
        (file,) = self.folder.glob('lib/python*/site-packages/torchvision/extension.py')
        part = file.with_suffix('.part')  # a new file: uv's cache may be linked to the old one
        part.write_text(file.read_text() + DECLARE)
        part.replace(file)
        print('note: torch has no CUDA and torchvision has: its operators are declared only')

    def fix_opencv(self) -> None:
        if 'cannot open shared object file' in (self.fault('import cv2') or ''):
            query = "from importlib.metadata import version; print(version('opencv-python'))"
            version = subprocess.check_output([str(self.python), '-c', query], text=True).strip()
            self.install('--no-deps', '--reinstall', f'opencv-python-headless=={version}')


def run(words: list[str], variables: dict[str, str] | None = None) -> None:
    print('$ ' + shlex.join(words), flush=True)
    if code := subprocess.run(words, env=variables).returncode:
        sys.exit(f'error: the command above ended with exit code {code}.\n{HELP}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=STACKS, default='onedl')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv')
    parser.add_argument('--docs', action='store_true', help='with what `make docs` needs')
    args = parser.parse_args()
    lock = os.open(ROOT, os.O_RDONLY)  # one at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    env = Environment(args.venv.absolute(), args.stack)
    set_up(env)
    if args.docs:
        env.install_docs()


def set_up(env: Environment) -> None:
    """Make an environment, unless it is what the files of this checkout ask for."""
    inputs = (STACKS[env.stack], DEV, 'setup.py', 'pyproject.toml', 'dev/setup_env.py')
    wanted = hashlib.sha256(b'\0'.join((ROOT / name).read_bytes() for name in inputs)).hexdigest()
    stamp = env.folder / 'paca_mm-setup'
    if stamp.is_file() and stamp.read_text() == f'{ROOT} {wanted}' and env.works('import sys'):
        return
    if sys.version_info < (3, 10):  # noqa: UP036  (any Python may run this script)
        sys.exit(f'error: Python 3.10 or newer is needed, this is {sys.version.split()[0]}')
    env.make()
    env.install_stack()
    run([str(env.python), str(ROOT / 'tools' / 'doctor.py')])
    stamp.write_text(f'{ROOT} {wanted}')


if __name__ == '__main__':
    main()
