"""Train the small model of every family on the embedded dataset, in all its tasks, by one schedule.

A smoke test of learning: whether every family learns, and how steadily, on some hundred small images
of shapes. It says nothing about ImageNet, COCO or ADE20K. Finished runs are kept.
"""

import argparse

from paca_mm.errors import UserError
from paca_mm.families import names

EXAMPLES = ['', '--tasks cls --seeds 0', '--families paca rapidnet --jobs 2']

TASKS = ['det', 'seg', 'cls']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
    parser.add_argument('--families', nargs='+', choices=names(), default=names())
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument(
        '--jobs', type=int, default=1, help='trainings at a time, sharing the cores'
    )
    parser.add_argument('--work-dir', default='work_dirs/families', help='default: %(default)s')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='for every training, such as train_cfg.max_epochs=10',
    )


def run(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise UserError(f'--jobs {args.jobs} must be 1 or more.')
    from paca_mm.analysis.compare import compare

    compare(args)
