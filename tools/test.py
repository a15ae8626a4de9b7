"""Evaluate a checkpoint of any of the three tasks, and draw or keep its predictions."""

import argparse

from paca_mm.cli import command
from paca_mm.engine import launch


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='a .pth or .safetensors file, official or ours')
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions into this folder')
    parser.add_argument('--out', metavar='FILE.pkl', help='keep all predictions in this file')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="merge the predictions of several views of an image: the config's tta_model and "
        'tta_pipeline, or flips (and sizes, for segmentation)',
    )
    launch.add_arguments(parser)
    return parser.parse_args(argv)


@command
def main(argv=None):
    launch.test(parse_args(argv))


if __name__ == '__main__':
    main()
