"""The command line ``paca-mm``, and what every command shares.

A command is a module of ``paca_mm.commands``: its docstring says what it does, ``EXAMPLES`` what one
types behind its name, ``add_arguments(parser)`` what it takes and ``run(args)`` does it, returning
an exit code or None. Such a module imports nothing heavy before ``run``, so that ``--help`` answers at
once. A user's mistake ends in one message and exit code 2.
"""

import argparse
import functools
import importlib
import importlib.util
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from paca_mm import __version__
from paca_mm.errors import UserError, did_you_mean
from paca_mm.files import writing
from paca_mm.paths import COMMANDS, command_line

#: What a command may lack in an environment that is for exported files alone.
PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'numpy', 'cv2', 'PIL', 'matplotlib', 'rich')


def command(main: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a ``main`` so that a :class:`UserError` is printed without a traceback.

    The error may have travelled through mmengine's registry or a data loader's worker, which put
    their own words (and the worker's traceback) before the message; those are cut off.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with writing('.', alone=False):
                code = main(*args, **kwargs)
        except UserError as e:
            _say(f'\nerror: {plain_message(e)}')
            raise SystemExit(2) from None
        except BrokenPipeError:
            if not _nobody_reads(sys.stdout):  # but a worker's pipe, say
                raise
            raise SystemExit(141) from None  # as a program that SIGPIPE ends
        except KeyError as e:  # mmengine's word for a type that nobody registered
            if not (unknown := re.search(r'([\w.]+) is not in the ([\w:. ]+ registry)', str(e))):
                raise
            _say(
                f'\nerror: the config names type={unknown[1]!r}, which is not in the {unknown[2]}'
                f'{did_you_mean(unknown[1], _registered(e), most=3)}\n'
                '  to fix it: correct its spelling; for a class of your own, name its module: '
                "custom_imports=dict(imports=['my_module'])."
            )
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            _say('\nstopped.')
            raise SystemExit(130) from None
        finally:
            _let_go(sys.stdout)
        if code:
            raise SystemExit(code)

    return run


def _say(message: str) -> None:
    """Print a message of the end; that it cannot be written does not change the exit code."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    _let_go(sys.stderr)


def _let_go(stream: TextIO) -> None:
    """Write what a stream still holds, or leave it: its disk is full, or nobody reads it any more.

    Python would try it once more at its end, and leave with a code and words of its own.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _nobody_reads(stream: TextIO) -> bool:
    """Whether a stream writes into a pipe whose other end is closed, as behind ``| head``."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _registered(error: BaseException) -> set[str]:
    """The names that the registry which raised an error has, and those above it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    names: set[str] = set()
    registry = at.tb_frame.f_locals.get('registry') if at is not None else None
    while registry is not None:
        names |= {*getattr(registry, 'module_dict', ())}
        registry = getattr(registry, 'parent', None)
    return names


def plain_message(error: BaseException) -> str:
    """The error's own message, without what mmengine and torch put before it."""
    message = str(error).rpartition('paca_mm.errors.UserError: ')[2]
    while match := re.match(r'class `\w+` in [\w/.]+: ', message):
        message = message[match.end() :]
    return message.strip()


def front(name: str) -> Callable[..., None]:
    """The ``main`` of a script in ``tools/``: a command under its older name."""

    @command
    def main(argv: Sequence[str] | None = None) -> int | None:
        return run_command(name, argv, f'{COMMANDS[name]}.py', command_line(name))

    return main


def run_command(
    name: str, argv: Sequence[str] | None, prog: str, example: str | None = None
) -> int | None:
    """Parse the words behind a command and run it.

    Args:
        name: The command.
        argv: The words; those of the process by default.
        prog: What the usage line calls it.
        example: How the examples begin; as the usage line by default.

    Returns:
        The exit code; None is 0.
    """
    module = importlib.import_module(f'paca_mm.commands.{name.replace("-", "_")}')
    lines = [f'{example or prog} {words}'.rstrip() for words in module.EXAMPLES]
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(module.__doc__ or '').strip(),
        epilog='example:\n  ' + '\n  '.join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return module.run(args)
    except ModuleNotFoundError as e:
        package = (e.name or '').partition('.')[0]
        if package not in PACKAGES or importlib.util.find_spec(package):
            raise
        raise UserError(
            f'{prog} needs the package {package!r}, which is not installed.\n'
            f'  to fix it: {command_line("doctor")} says what this environment lacks.'
        ) from e


@command
def main(argv: Sequence[str] | None = None) -> int | None:
    """``paca-mm COMMAND ...`` and ``python -m paca_mm COMMAND ...``."""
    words = list(sys.argv[1:] if argv is None else argv)
    start = command_line('config').rpartition(' ')[0]  # as it was typed
    if not words or words[0] in ('-h', '--help', 'help'):
        print(_overview(start))
        return None if words else 2
    if words[0] in ('-V', '--version'):
        print(f'paca_mm {__version__}')
        return None
    if words[0] not in COMMANDS:
        near = did_you_mean(words[0], COMMANDS)
        raise UserError(
            f'{start} has no command {words[0]!r}{near}\n  the commands: {", ".join(COMMANDS)}'
        )
    return run_command(words[0], words[1:], f'{start} {words[0]}')


def _overview(start: str) -> str:
    """The list of the commands, with the first sentence of each."""
    width = max(map(len, COMMANDS))
    rows = []
    for name in COMMANDS:
        module = importlib.import_module(f'paca_mm.commands.{name.replace("-", "_")}')
        rows.append(
            f'  {name:<{width}}  {(module.__doc__ or name).strip().splitlines()[0].rstrip(".")}'
        )
    return '\n'.join(
        [
            f'usage: {start} COMMAND ...',
            '',
            'Efficient vision backbones for OpenMMLab: PaCa-ViT and its neighbours.',
            '',
            *rows,
            '',
            f'example:\n  {start} demo',
            f'{start} COMMAND --help says what a command takes; {start} --version the version.',
        ]
    )
