"""Evaluate a checkpoint of any of the three tasks, and draw or keep its predictions."""

import argparse

from .options import add_run_options, parsed

EXAMPLES = ['configs/det/mask_rcnn_paca.py CHECKPOINT --show-dir drawn']


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_run_options(parser)


def run(args: argparse.Namespace) -> None:
    from paca_mm.engine import launch

    launch.test(parsed(args))
