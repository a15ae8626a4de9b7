"""Convert an official checkpoint to this package's layout, or back, tensors untouched.

Classification, detection and segmentation files and bare backbones are told apart by their keys. Into a
.safetensors file goes any checkpoint, with what is known of it.
"""

import argparse

from paca_mm.errors import UserError

EXAMPLES = [
    'IMNET_224_pacavit_tiny_p2cconv_100_0.pth paca_tiny.pth',
    'work_dirs/paca_shapes/epoch_25.pth paca_shapes.safetensors',
    'paca_shapes.safetensors --describe',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='a .pth or .safetensors file, or its URL')
    parser.add_argument('target', metavar='DST', nargs='?', help='a .pth or .safetensors file')
    parser.add_argument(
        '--describe', action='store_true', help='say what SRC is of; nothing is written'
    )
    parser.add_argument(
        '--config', help='what SRC was trained with: its classes and normalisation go into DST'
    )
    parser.add_argument(
        '--to-official', action='store_true', help="from this package's layout to the official one"
    )
    parser.add_argument('--force', action='store_true', help='write over an existing DST')
    parser.add_argument(
        '--task',
        choices=['cls', 'det', 'seg', 'backbone'],
        help='stop unless SRC is a checkpoint of it',
    )
    parser.add_argument('--row', help='stop unless SRC looks like this published row (small_c49)')
    parser.add_argument('--keys', action='store_true', help='report every key on its own line')


def run(args: argparse.Namespace) -> None:
    if args.describe == (args.target is not None):
        raise UserError('name the file to write behind SRC, or say --describe and name none.')
    from paca_mm.checkpoint.convert import convert_file, describe_file
    from paca_mm.engine.config import load_config

    config = load_config(args.config) if args.config else None
    if args.describe:
        print(describe_file(args.source, config))
        return
    conversion = convert_file(
        args.source,
        args.target,
        to_official=args.to_official,
        force=args.force,
        task=args.task,
        row=args.row,
        config=config,
    )
    print(conversion.every_key() if args.keys else conversion)
    print(f'wrote {args.target}')
