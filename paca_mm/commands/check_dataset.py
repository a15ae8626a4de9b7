"""Look at every file of a config's datasets: faults by kind, with the first offenders.

What was read is kept, so that a stopped check goes on where it was. Ends with code 1 if a run would
end or be wrong.
"""

import argparse

from .options import add_cfg_options, parsed

EXAMPLES = ['my_config.py', 'configs/det/mask_rcnn_paca.py --phases train val --workers 8']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config file')
    parser.add_argument(
        '--phases',
        nargs='+',
        choices=['train', 'val', 'test'],
        default=['train', 'val', 'test'],
        help='whose datasets (default: all)',
    )
    parser.add_argument('--workers', type=int, metavar='N', help='processes (default: all cores)')
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='where report.{txt,json,html} go (default: work_dirs/NAME/data)',
    )
    parser.add_argument(
        '--shapes', action='store_true', help='the embedded dataset (made on first use)'
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    from paca_mm.analysis.dataset.command import check

    return check(parsed(args))
