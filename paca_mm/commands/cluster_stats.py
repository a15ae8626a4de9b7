"""Measure learned clusters over a dataset, before and after training.

How many are alive, how spread out and how alike they are; and, where every pixel has a label (masks of
segmentation or detection), what they tell about it.
"""

import argparse

from paca_mm.errors import UserError

from .options import add_cfg_options, add_sample_options, parsed

EXAMPLES = [
    'configs/seg/paca_head_paca_shapes.py --shapes',
    'configs/seg/paca_head_paca_shapes.py CHECKPOINT --shapes --num-images 32',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config with PaCa, for any task')
    parser.add_argument('checkpoint', nargs='?', help='what was trained with it, if anything')
    add_sample_options(parser)
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0, 1, 2],
        metavar='N',
        help='of the untrained networks (default: 0 1 2)',
    )
    parser.add_argument(
        '--block',
        type=int,
        default=-1,
        metavar='N',
        help='of each stage, counted from 0 or from the end (default: the last)',
    )
    parser.add_argument('--out', metavar='DIR', help='default: work_dirs/cluster_stats/NAME')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    if args.num_images < 1:
        raise UserError('--num-images must be 1 at least.')
    from paca_mm.analysis.cluster_stats.command import analyze

    analyze(parsed(args))
