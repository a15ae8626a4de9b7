"""Where configs and tools are, which travel with the package, and how its commands are typed."""

import functools
import os
import shlex
import shutil
import sys
from difflib import get_close_matches
from pathlib import Path

from paca_mm.errors import UserError

PACKAGE = Path(__file__).resolve().parents[0]

#: The commands of ``paca-mm``, and the script in ``tools/`` that is each one's older name, if any. A
#: command is the module ``paca_mm.commands.<name>`` (``check-dataset`` is ``check_dataset``).
COMMANDS = {
    'train': 'train',
    'test': 'test',
    'infer': 'infer',
    'config': None,
    'shapes': 'make_shapes',
    'check-dataset': 'check_dataset',
    'demo': 'demo',
    'clusters': 'visualize_clusters',
    'flops': 'get_flops',
    'bench': 'benchmark',
    'frequency': 'analyze_frequency',
    'cluster-stats': 'analyze_clusters',
    'plot-log': 'plot_log',
    'families': 'compare_families',
    'convert': 'convert_official',
    'export': 'export_onnx',
    'doctor': 'doctor',
}


def assets_root() -> Path:
    """The folder that holds ``configs/`` and ``tools/``.

    In a checkout, also when it is installed editable, that is the checkout. A wheel has them in
    ``paca_mm/.mim``, where OpenMMLab's tools look for them in every package.
    """
    for folder in (PACKAGE / '.mim', PACKAGE.parent):
        if (folder / 'configs').is_dir() and (folder / 'tools').is_dir():
            # An editable install once had links in .mim; where they lead to is the checkout.
            return (folder / 'configs').resolve().parent
    raise FileNotFoundError(
        f'no configs/ and tools/ in {PACKAGE / ".mim"} and none beside the package: '
        'install paca_mm from a checkout or from a complete wheel'
    )


def command_line(name: str, *words: str) -> str:
    """What to type for a command of ours, where the user stands: the messages' last line.

    Who started ``paca-mm`` or ``python -m paca_mm`` reads that again. Else it is the script in
    ``tools/`` in the root of a checkout, and in any other folder what is installed.

    Args:
        name: The command, of :data:`COMMANDS`.
        words: What follows it, quoted where a shell needs that.
    """
    return shlex.join([*_start_of(name), *words])


def _start_of(name: str) -> list[str]:
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    if started.stem == 'paca-mm':
        return ['paca-mm', name]
    if started == PACKAGE / '__main__.py':
        return ['python', '-m', 'paca_mm', name]
    script = Path('tools', f'{COMMANDS[name]}.py')
    ours = PACKAGE.parent / script
    if script.is_file() and ours.is_file() and script.samefile(ours):
        return ['python', str(script)]
    return ['paca-mm', name] if _is_installed() else ['python', '-m', 'paca_mm', name]


@functools.cache
def _is_installed() -> bool:
    """Whether typing ``paca-mm`` starts what belongs to this Python."""
    found = shutil.which('paca-mm')
    return found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)


def configs() -> list[Path]:
    """All config files of this project that can be run (the bases cannot)."""
    root = assets_root() / 'configs'
    return sorted(f for f in root.rglob('*.py') if '_base_' not in f.relative_to(root).parts)


def config(name: str) -> str:
    """The path of a config of ours, for a ``_base_`` in a project of one's own.

    >>> config('cls/paca_finetune')  # doctest: +ELLIPSIS
    '.../configs/cls/paca_finetune.py'

    Args:
        name: The file below ``configs/``, or its bare name.

    Raises:
        UserError: There is none of that name, or there are several.
    """
    return str(find_config(name, own=True))


def find_config(name: str, own: bool = False) -> Path:
    """A config file by what a user typed.

    Args:
        name: A path; a path from the project's root (``configs/det/mask_rcnn_paca.py``) or from its
            ``configs/``, which works from any working directory; or a bare name
            (``mask_rcnn_paca``). The ``.py`` may be left out of ours.
        own: Look among ours only.

    Raises:
        UserError: There is none of that name, or there are several.
    """
    file = Path(name).expanduser()
    if not own and file.is_file():
        return file
    root = assets_root()
    for folder in (root, root / 'configs'):
        for path in (folder / file, folder / f'{file}.py'):
            if path.is_file() and path.is_relative_to(root / 'configs'):
                return path
    known = configs()
    same = [path for path in known if name in (path.name, path.stem)]
    if len(same) == 1:
        return same[0]
    if same:
        places = '\n  '.join(str(path.relative_to(root)) for path in same)
        raise UserError(f'several configs are called {name!r}: name one of\n  {places}')
    near = get_close_matches(file.stem, [path.stem for path in known], n=3, cutoff=0.5)
    hints = [str(path.relative_to(root)) for stem in near for path in known if path.stem == stem]
    looked = str(root) if own else f'{Path.cwd()} and in {root}'
    raise UserError(
        f'there is no config {name!r} (looked in {looked}).'
        + (' Did you mean:\n  ' + '\n  '.join(hints) if hints else '')
        + f'\n  all of them: {command_line("config")}'
    )
