"""The work behind ``paca-mm bench``: measure, print, save."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from paca_mm.errors import UserError
from paca_mm.threads import cores

from . import goals, results
from .conditions import Conditions
from .contestants import comparison, known, variants
from .plots import plot
from .profile import profile
from .race import race
from .steps import Setting

DEFAULT = ('paca_small', 'paca_small+plain', 'swin_s', 'pvtv2_b3', 'convnext_s')


def benchmark(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    args.threads = args.threads or cores()
    conditions = Conditions.now(args.device, args.threads)
    if args.list:
        print_names()
    elif args.quick:
        with progress_line() as progress:
            found = goals.measure(args.rounds or 9, args.threads, progress)
        print(goals.table(found))
        print(f'\n{conditions}\nbatch 4 at 224x224, fp32, eager, where nothing else is said')
    elif args.profile:
        for setting in settings(args):
            for name in args.models or ['paca_small']:
                print(profile(name, setting, args.rounds or 10, args.threads), end='\n\n')
        print(conditions)
    else:
        compare(args, conditions)


def compare(args: argparse.Namespace, conditions: Conditions) -> None:
    names = comparison() if args.families else args.models or list(DEFAULT)
    baseline = args.baseline or names[0]
    if baseline not in names:
        raise UserError(f'--baseline {baseline!r} is not among the models: {", ".join(names)}.')
    rows = []
    with progress_line() as progress:
        for setting in settings(args):
            found = race(names, setting, args.rounds or 10, args.threads, progress)
            rows += found.rows(baseline)
    print(results.table(rows))
    print(f'\n{conditions}\nratios: how many times as fast as {baseline}, round against round')
    if args.out:
        file = results.save(rows, conditions, args.out, results.file_name(conditions, rows))
        for saved in (file, *plot(rows, conditions, file)):
            print(f'saved {saved}')


def print_names() -> None:
    print('models:', *known(), sep='\n  ')
    print('  timm/NAME, mmpretrain/NAME, path/to/config.py')
    print('variants, behind a +:')
    for name, meaning in variants().items():
        print(f'  {name:<14} {meaning}')


def settings(args: argparse.Namespace) -> list[Setting]:
    """Every mode at every size."""

    sizes = [size_of(text) for text in args.size]
    return [
        Setting(mode, args.batch, height, width, args.dtype, args.device)
        for mode in args.mode
        for height, width in sizes
    ]


def size_of(text: str) -> tuple[int, int]:
    """'224' or '800x1333' -> height and width."""
    sides = text.lower().split('x')
    if not 1 <= len(sides) <= 2 or not all(s.isdigit() and int(s) >= 32 for s in sides):
        raise UserError(f'--size {text}: one side or HxW, each at least 32 (224, 800x1333).')
    return int(sides[0]), int(sides[-1])


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a text in one line, which is written over; only where somebody watches."""

    # Drawn when there is news and by no thread of its own, which would take time from what is timed.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow='ellipsis'), refresh=True)
