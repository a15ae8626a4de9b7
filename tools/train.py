"""Train a detector, a segmentor or a classifier, with mmdetection's familiar options.

Whatever the config needs is checked before the first iteration.
"""

import argparse

from paca_mm.cli import command
from paca_mm.engine import launch


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
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
    launch.add_arguments(parser)
    return parser.parse_args(argv)


@command
def main(argv=None):
    launch.train(parse_args(argv))


if __name__ == '__main__':
    main()
