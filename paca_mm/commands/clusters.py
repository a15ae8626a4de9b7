"""Show the clusters of a model on images: sheets, and a page to click on.

For every stage what the clusters are made of, which of them are read most, and what a chosen patch
reads, in clusters and back on the image. Without a checkpoint the weights are random. The sheets are
PNG files, clusters.html is one page of all images that needs no network; docs/clusters.md says how to
read them.
"""

import argparse
import sys

from paca_mm.errors import UserError

from .options import add_cfg_options, parsed, split

EXAMPLES = [
    'street.jpg configs/det/mask_rcnn_paca.py CHECKPOINT --out looked_at',
    'street.jpg configs/det/mask_rcnn_paca.py --at 0.25 0.7',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s IMAGE... CONFIG [CHECKPOINT] [options]'
    parser.add_argument(
        'words',
        nargs='+',
        metavar='IMAGE... CONFIG [CHECKPOINT]',
        help='images, folders or quoted globs; the config that the checkpoint was trained with; the '
        'checkpoint, official or ours (none: random weights)',
    )
    parser.add_argument('--out', metavar='DIR', help='default: work_dirs/clusters/NAME')
    parser.add_argument(
        '--at',
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('X', 'Y'),
        help='the patch on the sheets, as shares of width and height (default: the middle)',
    )
    parser.add_argument(
        '--block',
        type=int,
        metavar='N',
        help='of each stage on the sheets, from 1 (default: the last)',
    )
    parser.add_argument(
        '--top', type=int, default=9, metavar='N', help='clusters on a sheet (default: %(default)s)'
    )
    parser.add_argument('--device', help='such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument(
        '--shapes', action='store_true', help='the checkpoint was trained with --shapes'
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    images, config, checkpoint = split(args.words)
    if not all(0 <= share <= 1 for share in args.at):
        raise UserError(
            f'--at {args.at[0]:g} {args.at[1]:g}: both are shares of the image, from 0 to 1 '
            '(0 0 is its upper left corner).'
        )
    for name, value in (('block', args.block), ('top', args.top)):
        if value is not None and value < 1:
            raise UserError(f'--{name} must be 1 at least.')
    from paca_mm.analysis.clusters.command import explore

    given = {**vars(parsed(args)), 'images': images, 'config': config, 'checkpoint': checkpoint}
    broken = explore(argparse.Namespace(**given))
    if not broken:
        return 0
    rows = '\n  '.join(broken)
    print(
        f'\nerror: {len(broken)} images could not be read:\n  {rows}\n'
        '  to fix it: fetch these files again.',
        file=sys.stderr,
    )
    return 1
