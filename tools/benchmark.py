"""Time models side by side: ours, the peers a user would pick instead, a plain reading of PaCa.

benchmark.py                              PaCa-small, its peers and the plain reading, inference
benchmark.py --quick                      the goals of this project's speed, in a few minutes
benchmark.py --families                   every family beside the peers of its weight class
benchmark.py --profile                    where the time of PaCa-small goes
benchmark.py paca_tiny swin_t --mode train
benchmark.py paca_small paca_small+compile swin_s --size 224 512 800x1333
benchmark.py mask_rcnn/paca_tiny mask_rcnn/swin_t mask_rcnn/pvtv2_b2 --size 480x640 --batch 1
benchmark.py head head+plain --size 512 1024x2048 --mode infer train --batch 1
"""

import argparse
from contextlib import contextmanager
from pathlib import Path

from paca_mm.cli import command
from paca_mm.errors import UserError

DEFAULT = ('paca_small', 'paca_small+plain', 'swin_s', 'pvtv2_b3', 'convnext_s')

#: What an option has no use for.
IGNORED = {
    'quick': [
        'models',
        'mode',
        'size',
        'batch',
        'dtype',
        'device',
        'baseline',
        'out',
        'profile',
        'families',
    ],
    'profile': ['baseline', 'out', 'families'],
    'families': ['models'],
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'models', nargs='*', default=[], help='names; --list says which, and the variants'
    )
    parser.add_argument('--list', action='store_true', help='list models and variants')
    parser.add_argument('--quick', action='store_true', help='measure the goals, on the CPU')
    parser.add_argument(
        '--families', action='store_true', help='all families and the peers of their weight class'
    )
    parser.add_argument('--profile', action='store_true', help='where the time of a step goes')
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['infer'])
    parser.add_argument('--size', nargs='+', default=['224'], metavar='N|HxW', help='of images')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--dtype', choices=['fp32', 'bf16', 'fp16'], default='fp32')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, help='of the CPU; default: all its cores')
    parser.add_argument(
        '--rounds', type=int, default=None, help='default: 10; what two minutes hold with --quick'
    )
    parser.add_argument('--baseline', help='what the ratios refer to (default: the first model)')
    parser.add_argument('--out', type=Path, help='folder for a CSV file and plots')
    args = parser.parse_args(argv)
    for name in ('batch', 'threads', 'rounds'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f'--{name} {getattr(args, name)} must be 1 or more.')
    for option, ignored in IGNORED.items():
        given = [n for n in ignored if getattr(args, n) != parser.get_default(n)]
        if getattr(args, option) and given:
            raise UserError(f'--{option} has no use for {given[0]}: leave it out.')
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    from paca_mm.analysis.speed.conditions import Conditions, cores

    args.threads = args.threads or cores()
    conditions = Conditions.now(args.device, args.threads)
    if args.list:
        print_names()
    elif args.quick:
        from paca_mm.analysis.speed import goals

        with progress_line() as progress:
            found = goals.measure(args.rounds or 9, args.threads, progress)
        print(goals.table(found))
        print(f'\n{conditions}\nbatch 4 at 224x224, fp32, eager, where nothing else is said')
    elif args.profile:
        from paca_mm.analysis.speed.profile import profile

        for setting in settings(args):
            for name in args.models or ['paca_small']:
                print(profile(name, setting, args.rounds or 10, args.threads), end='\n\n')
        print(conditions)
    else:
        compare(args, conditions)


def compare(args, conditions):
    from paca_mm.analysis.speed import results
    from paca_mm.analysis.speed.contestants import comparison
    from paca_mm.analysis.speed.plots import plot
    from paca_mm.analysis.speed.race import race

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


def print_names():
    from paca_mm.analysis.speed.contestants import known, variants

    print('models:', *known(), sep='\n  ')
    print('  timm/NAME, mmpretrain/NAME, path/to/config.py')
    print('variants, behind a +:')
    for name, meaning in variants().items():
        print(f'  {name:<14} {meaning}')


def settings(args):
    """Every mode at every size."""
    from paca_mm.analysis.speed.steps import Setting

    sizes = [size_of(text) for text in args.size]
    return [
        Setting(mode, args.batch, height, width, args.dtype, args.device)
        for mode in args.mode
        for height, width in sizes
    ]


def size_of(text):
    """'224' or '800x1333' -> height and width."""
    sides = text.lower().split('x')
    if not 1 <= len(sides) <= 2 or not all(s.isdigit() and int(s) >= 32 for s in sides):
        raise UserError(f'--size {text}: one side or HxW, each at least 32 (224, 800x1333).')
    return int(sides[0]), int(sides[-1])


@contextmanager
def progress_line():
    """A function that shows a text in one line, which is written over; only where somebody watches."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # Drawn when there is news and by no thread of its own, which would take time from what is timed.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow='ellipsis'), refresh=True)


if __name__ == '__main__':
    main()
