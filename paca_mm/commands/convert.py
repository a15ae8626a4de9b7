"""Convert an official checkpoint to this package's layout, or back, tensors untouched.

Classification, detection and segmentation files and bare backbones are told apart by their keys.
"""

import argparse

EXAMPLES = ['IMNET_224_pacavit_tiny_p2cconv_100_0.pth paca_tiny.pth']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='a .pth or .safetensors file, or its URL')
    parser.add_argument('target', metavar='DST', help='a .pth or .safetensors file')
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
    from paca_mm.checkpoint.convert import convert_file

    conversion = convert_file(
        args.source,
        args.target,
        to_official=args.to_official,
        force=args.force,
        task=args.task,
        row=args.row,
    )
    print(conversion.every_key() if args.keys else conversion)
    print(f'wrote {args.target}')
