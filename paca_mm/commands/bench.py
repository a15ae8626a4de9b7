"""Time models side by side: ours, the peers a user would pick instead, a plain reading of PaCa.

Without a name: PaCa-small, its peers and the plain reading, inference.
"""

import argparse
from pathlib import Path

from paca_mm.errors import UserError

EXAMPLES = [
    '',
    '--quick',
    '--families',
    '--profile',
    'paca_tiny swin_t --mode train',
    'paca_small paca_small+compile swin_s --size 224 512 800x1333',
    'mask_rcnn/paca_tiny mask_rcnn/swin_t mask_rcnn/pvtv2_b2 --size 480x640 --batch 1',
    'head head+plain --size 512 1024x2048 --mode infer train --batch 1',
]

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    for name in ('batch', 'threads', 'rounds'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f'--{name} {getattr(args, name)} must be 1 or more.')
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    for option, ignored in IGNORED.items():
        given = [n for n in ignored if getattr(args, n) != defaults.get_default(n)]
        if getattr(args, option) and given:
            raise UserError(f'--{option} has no use for {given[0]}: leave it out.')
    from paca_mm.analysis.speed.command import benchmark

    benchmark(args)
