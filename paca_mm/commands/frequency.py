"""Show the frequencies of a dataset and of a network's stages, and search sizes by them.

Inspired by a paper of which only the abstract is known; docs/frequency.md says what is measured.
"""

import argparse

from paca_mm.errors import UserError

from .options import add_cfg_options, add_sample_options, parsed

EXAMPLES = [
    'configs/cls/paca_shapes.py --shapes',
    'configs/cls/paca_shapes.py --shapes --search --max-params 1',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config file, such as configs/cls/paca_shapes.py')
    parser.add_argument('checkpoint', nargs='?', help='what was trained with it, if anything')
    parser.add_argument(
        '--images', metavar='FOLDER', help="a folder, an image or a quoted glob, not the config's"
    )
    add_sample_options(parser)
    parser.add_argument(
        '--crop',
        type=int,
        default=224,
        metavar='N',
        help='larger images are cut to their centre (default: %(default)s pixels a side)',
    )
    parser.add_argument(
        '--seeds', type=int, default=3, metavar='N', help='untrained networks (default: 3)'
    )
    parser.add_argument(
        '--window', choices=['hann', 'none'], default='hann', help='default: %(default)s'
    )
    parser.add_argument('--out', metavar='DIR', help='default: work_dirs/frequency/NAME')
    add_cfg_options(parser)
    search = parser.add_argument_group('search', 'depths and widths nearest to a target')
    search.add_argument('--search', action='store_true', help='needs one of the two budgets')
    budget = search.add_mutually_exclusive_group()
    budget.add_argument('--max-params', type=float, metavar='M', help="backbone's, millions")
    budget.add_argument('--max-macs', type=float, metavar='G', help="backbone's, billions")
    search.add_argument(
        '--at-least',
        type=float,
        default=0.0,
        metavar='SHARE',
        help='of the budget that a candidate uses, 0 to 1 (default: 0)',
    )
    search.add_argument(
        '--target',
        choices=['checkpoint', 'images'],
        help='what is to be near (default: the checkpoint if there is one)',
    )
    search.add_argument('--depths', type=float, nargs='+', metavar='X', help='multipliers')
    search.add_argument('--widths', type=float, nargs='+', metavar='X', help='multipliers')


def run(args: argparse.Namespace) -> None:
    for name in ('num_images', 'seeds'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} must be 1 at least.')
    if args.crop < 32:
        raise UserError('--crop must be 32 at least.')
    given = args.max_params is not None or args.max_macs is not None
    if args.search != given:
        raise UserError(
            'a search takes a budget: --search with --max-params (millions) or --max-macs (billions).'
        )
    if args.target == 'checkpoint' and not args.checkpoint:
        raise UserError('--target checkpoint: name the checkpoint behind the config.')
    from paca_mm.analysis.frequency.command import analyze

    analyze(parsed(args))
