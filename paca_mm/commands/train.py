"""Train a detector, a segmentor or a classifier, with mmdetection's familiar options.

Whatever the config needs is checked before the first iteration.
"""

import argparse

from .options import add_run_options, parsed

EXAMPLES = [
    'configs/det/mask_rcnn_paca.py --shapes',
    'my_config.py --work-dir runs/a --cfg-options train_dataloader.batch_size=4',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config file, such as configs/det/mask_rcnn_paca.py')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on with a run: from the named checkpoint, or from the newest in the work directory',
    )
    parser.add_argument(
        '--fallback-dir',
        metavar='DIR',
        help='where checkpoints go when the work directory has no room; --resume looks there, too',
    )
    parser.add_argument(
        '--wait-for-room',
        type=float,
        metavar='MINUTES',
        help='how long a checkpoint that finds no room is tried again (default: 5)',
    )
    add_run_options(parser)


def run(args: argparse.Namespace) -> None:
    from paca_mm.engine import launch

    launch.train(parsed(args))
