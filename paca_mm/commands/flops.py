"""Count the parameters and multiply-accumulates of a config's model, module by module."""

import argparse

from paca_mm.errors import UserError

EXAMPLES = ['configs/det/mask_rcnn_paca.py --shape 800 1280']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='N',
        help='height and width, or one side (default: 800 1280, 512 512 or 224 224, by task)',
    )
    parser.add_argument('--depth', type=int, default=2, help='of the table (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    from paca_mm.engine.config import load_config
    from paca_mm.engine.tasks import task_for
    from paca_mm.type_names import type_name

    cfg = load_config(args.config)
    task = task_for(cfg)
    shape = tuple(args.shape or task.image_size)
    if len(shape) > 2 or min(shape) < 32:
        raise UserError(f'--shape {shape}: give one side, or height and width, each at least 32.')
    height, width = shape * 2 if len(shape) == 1 else shape

    from paca_mm.analysis.build import build
    from paca_mm.analysis.flops import count
    from paca_mm.analysis.toy_inputs import forward

    model = build(cfg).eval()
    cost = count(model, lambda m: forward(m, task.name, height, width))
    print(cost.table(args.depth, type_name(cfg.model)))
    print(f'\none image of {height} x {width}; MACs as executed, attention and pooling included')
    if task.name == 'det':
        print(
            'the heads at the proposals of random weights: compare backbone and neck, not the total'
        )
