"""Export a trained model to ONNX or .pt2, checked on the spot; also quantised, with a report.

An ONNX file runs without torch and OpenMMLab: paca-mm infer IMAGES --onnx FILE. A .pt2 file runs by
torch alone: torch.export.load(FILE).
"""

import argparse
from pathlib import Path

from paca_mm.errors import UserError

from .options import add_cfg_options, parsed

EXAMPLES = [
    'configs/cls/paca_shapes.py CHECKPOINT --out shapes.onnx',
    'configs/seg/paca_head_paca_shapes.py CHECKPOINT --output labels --normalize',
    'configs/det/mask_rcnn_paca.py CHECKPOINT',
    'configs/cls/paca_shapes.py CHECKPOINT --out shapes.pt2',
    'configs/cls/paca_shapes.py CHECKPOINT --int8 dynamic',
    'configs/cls/paca_shapes.py CHECKPOINT --int8 static --calibrate data/shapes/imagefolder/train/disc',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='the config that the checkpoint was trained with')
    parser.add_argument(
        'checkpoint', nargs='?', help='a .pth or .safetensors file (default: random weights)'
    )
    parser.add_argument(
        '--out', metavar='FILE', help='default: work_dirs/export/NAME.onnx, or NAME.pt2'
    )
    parser.add_argument(
        '--format',
        choices=['onnx', 'pt2'],
        help='of the file (default: as --out ends, else onnx); pt2 is by torch.export, for torch',
    )
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
        help="torch's exporter of ONNX by tracing, or by torch.export (default: torchscript)",
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
    int8.add_argument('--num-images', type=int, metavar='N', help='to calibrate on (default: 64)')
    int8.add_argument(
        '--max-drop',
        type=float,
        metavar='POINTS',
        help="of the task's metric, 0 to 100; above it there is no int8 file (default: 1)",
    )


def run(args: argparse.Namespace) -> None:
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 32):
        raise UserError(
            f'--size {args.size}: give one side, or height and width, each at least 32.'
        )
    args.format = _format_of(args.format, args.out)
    if args.format == 'pt2':
        _refuse_options_of_onnx(args)
    if args.int8 == 'static' and not args.calibrate:
        raise UserError(
            '--int8 static measures the range of every map on images.\n'
            '  to fix it: --calibrate a folder of images like those to come, or --int8 dynamic.'
        )
    if args.calibrate and args.int8 != 'static':
        raise UserError('--calibrate is for --int8 static: leave it out, or add that.')
    if args.num_images is not None and args.int8 != 'static':
        raise UserError('--num-images is for --int8 static: leave it out, or add that.')
    if args.num_images is not None and args.num_images < 1:
        raise UserError('--num-images must be 1 at least.')
    if args.max_drop is not None and not args.int8:
        raise UserError('--max-drop is for --int8: leave it out, or add that.')
    if args.opset is not None and args.opset < 7:
        raise UserError(f'--opset {args.opset}: torch writes 7 and newer; 17 is the default.')
    from paca_mm.export.command import export

    export(parsed(args))


def _format_of(given: str | None, out: str | None) -> str:
    """What to write, by ``--format`` and by how the name of the file ends."""
    ending = Path(out).suffix if out is not None else f'.{given or "onnx"}'
    if ending not in ('.onnx', '.pt2') or (given and ending != f'.{given}'):
        allowed = f'.{given}, as --format says' if given else '.onnx or .pt2'
        raise UserError(f'--out {out}: the name must end in {allowed}.')
    return ending[1:]


def _refuse_options_of_onnx(args: argparse.Namespace) -> None:
    """See that none was given that a .pt2 file would not heed."""
    for name in ('exporter', 'opset', 'int8', 'calibrate', 'num_images', 'max_drop'):
        if getattr(args, name) is not None:
            raise UserError(
                f'--{name.replace("_", "-")} is for ONNX, and --format pt2 has no such choice.\n'
                '  to fix it: leave it out, or --format onnx.'
            )
