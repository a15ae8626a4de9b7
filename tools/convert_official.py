"""Convert an official checkpoint to this package's layout, or back, tensors untouched.

Classification, detection and segmentation files and bare backbones are told apart by their keys.
Run it as ``python tools/convert_official.py IMNET_224_pacavit_tiny_p2cconv_100_0.pth paca_tiny.pth``.
"""

import argparse

from paca_mm.checkpoint.convert import TASK_NAMES, convert_file
from paca_mm.cli import command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', metavar='SRC', help='a .pth or .safetensors file, or its URL')
    parser.add_argument('target', metavar='DST', help='a .pth or .safetensors file')
    parser.add_argument(
        '--to-official', action='store_true', help="from this package's layout to the official one"
    )
    parser.add_argument('--force', action='store_true', help='write over an existing DST')
    parser.add_argument('--task', choices=TASK_NAMES, help='stop unless SRC is a checkpoint of it')
    parser.add_argument('--row', help='stop unless SRC looks like this published row (small_c49)')
    parser.add_argument('--keys', action='store_true', help='report every key on its own line')
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
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


if __name__ == '__main__':
    main()
