"""Draw loss, learning rate and metrics of one or several trainings from their logs.

A resumed training is one curve: its logs are joined by iteration.
"""

import argparse

from paca_mm.errors import UserError

EXAMPLES = [
    'work_dirs/paca_shapes',
    'work_dirs/run_a work_dirs/run_b --names slow fast --keys loss lr mIoU --smooth 5',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='a work directory, a folder in it, or a scalars.json'
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='NAME',
        help="which curves, also by patterns such as 'loss*' (default: loss, lr and all metrics)",
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='what the runs are called')
    parser.add_argument(
        '--smooth',
        type=int,
        default=1,
        metavar='N',
        help='draw what is logged in training as the mean of N points (default: %(default)s)',
    )
    parser.add_argument(
        '--out', metavar='DIR', default='work_dirs/curves', help='default: %(default)s'
    )


def run(args: argparse.Namespace) -> None:
    if args.smooth < 1:
        raise UserError(f'--smooth {args.smooth} must be 1 or more.')
    from paca_mm.analysis.curves import plot_log

    plot_log(args)
