"""Make the embedded shapes dataset: COCO instances, ADE-style masks and ImageFolder from a seed."""

import argparse

from paca_mm.paths import command_line

EXAMPLES = ['data/shapes', 'data/shapes_large --train 2000 --size 256']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'out', nargs='?', default='data/shapes', help='folder (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, help='0 to 2**32 - 1 (default: 0)')
    parser.add_argument('--train', type=int, help='training images (default: 320)')
    parser.add_argument('--val', type=int, help='validation images (default: 64)')
    parser.add_argument('--size', type=int, help='side of an image in pixels (default: 128)')
    parser.add_argument(
        '--force', action='store_true', help='replace a shapes dataset that is there already'
    )


def run(args: argparse.Namespace) -> None:
    from paca_mm.datasets.shapes import SEG_CLASSES, ensure_shapes, make_shapes, read_info

    given = {
        'seed': args.seed,
        'num_train': args.train,
        'num_val': args.val,
        'size': args.size,
    }
    given = {name: value for name, value in given.items() if value is not None}
    # Without --force a complete dataset that is there, and is what was asked for, is as good.
    make = make_shapes if args.force else ensure_shapes
    extra = {'force': True} if args.force else {}
    print(f'shapes dataset in {args.out} ...', flush=True)
    out = make(args.out, **given, **extra)
    info = read_info(out)

    folders, side = info['folders'], info['size']
    classes = ', '.join(info['classes'])
    cards = {
        split: sum(n for name, n in folders.items() if name.startswith(f'imagefolder/{split}/'))
        for split in ('train', 'val')
    }
    print(f"""\
{out}  (recipe {info['recipe']}, seed {info['seed']})
  classes      {classes}
  train        {folders['train']} images, {side} x {side}, {info['instances']['train']} instances
  val          {folders['val']} images, {info['instances']['val']} instances
  annotations  instances_train.json, instances_val.json (COCO)
  masks        train, val: 1 {SEG_CLASSES[0]}, 2 to {len(SEG_CLASSES)} the classes \
(reduce_zero_label=True)
  imagefolder  train, val: {cards['train']} and {cards['val']} images, {side // 2} x {side // 2}
next:
  {command_line('train', 'configs/det/mask_rcnn_paca_shapes.py')}""")
