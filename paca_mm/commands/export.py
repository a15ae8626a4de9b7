"""Export a trained model to ONNX, checked in onnxruntime on the spot; also quantised, with a report.

The file runs without torch and OpenMMLab: paca-mm infer IMAGES --onnx FILE.
"""

import argparse

from paca_mm.errors import UserError

from .options import add_cfg_options, parsed

EXAMPLES = [
    'configs/cls/paca_shapes.py CHECKPOINT --out shapes.onnx',
    'configs/seg/paca_head_paca_shapes.py CHECKPOINT --output labels --normalize',
    'configs/det/mask_rcnn_paca.py CHECKPOINT',
    'configs/cls/paca_shapes.py CHECKPOINT --int8 dynamic',
    'configs/cls/paca_shapes.py CHECKPOINT --int8 static --calibrate data/shapes/imagefolder/train/disc',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='the config that the checkpoint was trained with')
    parser.add_argument(
        'checkpoint', nargs='?', help='a .pth or .safetensors file (default: random weights)'
    )
    parser.add_argument('--out', metavar='FILE', help='default: work_dirs/export/NAME.onnx')
    parser.add_argument(
        '--part',
        choices=['model', 'backbone', 'neck'],
        help='what leaves: all, the maps of the backbone, or those of the neck (default: all; of a '
        'detector backbone and neck, which is as far as it goes)',
    )
    parser.add_argument(
        '--output',
        choices=['logits', 'labels'],
        default='logits',
        help='of a classifier or segmentor (at the size of the input); default: %(default)s',
    )
    parser.add_argument(
        '--normalize',
        action='store_true',
        help='the file takes RGB pixels from 0 to 255 and normalises them itself',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        metavar='N',
        help='height and width, or one side: checked first, and the only one with --fixed',
    )
    parser.add_argument(
        '--fixed', action='store_true', help='for images of one size; the batch stays free'
    )
    parser.add_argument(
        '--exporter',
        choices=['torchscript', 'dynamo'],
        default='torchscript',
        help="torch's exporter by tracing, or by torch.export (default: %(default)s)",
    )
    parser.add_argument('--opset', type=int, help='of the operators (default: 17, with dynamo 18)')
    parser.add_argument(
        '--plain', action='store_true', help='layer by layer, not in the form that runs fast'
    )
    parser.add_argument(
        '--shapes', action='store_true', help='the checkpoint was trained with --shapes'
    )
    add_cfg_options(parser)
    int8 = parser.add_argument_group(
        'int8', "a second file, FILE.int8.onnx, and a report on the config's test dataset"
    )
    int8.add_argument(
        '--int8',
        choices=['dynamic', 'static'],
        help='weights of linear layers; or weights and activations, by --calibrate',
    )
    int8.add_argument('--calibrate', metavar='FOLDER', help='images like those to come (static)')
    int8.add_argument(
        '--num-images',
        type=int,
        default=64,
        metavar='N',
        help='to calibrate on (default: %(default)s)',
    )
    int8.add_argument(
        '--max-drop',
        type=float,
        default=1.0,
        metavar='POINTS',
        help="of the task's metric, 0 to 100; above it there is no int8 file (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 32):
        raise UserError(
            f'--size {args.size}: give one side, or height and width, each at least 32.'
        )
    if args.int8 == 'static' and not args.calibrate:
        raise UserError(
            '--int8 static measures the range of every map on images.\n'
            '  to fix it: --calibrate a folder of images like those to come, or --int8 dynamic.'
        )
    if args.calibrate and args.int8 != 'static':
        raise UserError('--calibrate is for --int8 static: leave it out, or add that.')
    if args.num_images < 1:
        raise UserError('--num-images must be 1 at least.')
    if args.opset is not None and args.opset < 7:
        raise UserError(f'--opset {args.opset}: torch writes 7 and newer; 17 is the default.')
    from paca_mm.export.command import export

    export(parsed(args))
