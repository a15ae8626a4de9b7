"""Make the embedded shapes dataset: COCO instances, ADE-style masks and ImageFolder from a seed.

Run it as ``python tools/make_shapes.py data/shapes``.
"""

import argparse

from paca_mm.cli import command
from paca_mm.datasets.shapes import (
    DEFAULT_DIR,
    SEG_CLASSES,
    ShapesSpec,
    ensure_shapes,
    make_shapes,
    read_info,
)


def parse_args(argv=None):
    default = ShapesSpec()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', nargs='?', default=DEFAULT_DIR, help=f'folder ({DEFAULT_DIR})')
    parser.add_argument('--seed', type=int, help=f'0 to 2**32 - 1 ({default.seed})')
    parser.add_argument('--train', type=int, help=f'training images ({default.num_train})')
    parser.add_argument('--val', type=int, help=f'validation images ({default.num_val})')
    parser.add_argument('--size', type=int, help=f'side of an image in pixels ({default.size})')
    parser.add_argument(
        '--force', action='store_true', help='replace a shapes dataset that is there already'
    )
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
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
  python tools/train.py configs/det/mask_rcnn_paca_shapes.py""")


if __name__ == '__main__':
    main()
