"""Write a config of ours for a project of your own, or list them all.

What is written can be saved in any folder and trains there, with our commands and with the hosts' own:
a few lines that take up ours, the file as it stands (--copy), or every setting (--full).
"""

import argparse

from paca_mm.bases import complete, copied, derived
from paca_mm.paths import assets_root, configs, find_config

EXAMPLES = ['', 'mask_rcnn_paca > mine.py', 'paca_finetune --copy > mine.py']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'name',
        nargs='?',
        help='a config by its name (mask_rcnn_paca) or path (configs/det/mask_rcnn_paca.py); without '
        'it the configs are listed',
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        '--copy', action='store_true', help='the text of the file, to be changed, not taken up'
    )
    how.add_argument('--full', action='store_true', help='every setting, without any other file')


def run(args: argparse.Namespace) -> None:
    if args.name is None:
        root = assets_root() / 'configs'
        print('\n'.join(str(path.relative_to(root).with_suffix('')) for path in configs()))
        return
    path = find_config(args.name, own=True)
    write = complete if args.full else copied if args.copy else derived
    print(write(path), end='')
