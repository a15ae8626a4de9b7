"""Predict images with a checkpoint: drawn images and predictions.json in one folder.

An image that cannot be read is named at the end, and the exit code is then 1.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from paca_mm.errors import UserError

from .options import CHECKPOINTS, CONFIGS, split

EXAMPLES = [
    'street.jpg configs/det/mask_rcnn_paca.py CHECKPOINT --out predicted',
    'street.jpg --onnx FILE --out predicted',
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        '%(prog)s IMAGE... CONFIG CHECKPOINT [options]\n       %(prog)s IMAGE... --onnx FILE'
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='IMAGE... CONFIG CHECKPOINT',
        help='images, folders or quoted globs; the config that the checkpoint was trained with; the '
        'checkpoint, a .pth or .safetensors file',
    )
    parser.add_argument(
        '--onnx', metavar='FILE', help='in place of both: a file of paca-mm export, without torch'
    )
    parser.add_argument(
        '--out', default='work_dirs/infer', help='the folder (default: %(default)s)'
    )
    parser.add_argument('--score-thr', type=float, help='least score of a detection (default: 0.3)')
    parser.add_argument('--device', help='such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument(
        '--shapes', action='store_true', help='the checkpoint was trained with --shapes'
    )


def run(args: argparse.Namespace) -> int:
    if args.onnx:
        return _run_exported(args)
    words, config, checkpoint = split(args.words) if len(args.words) > 2 else ([], '', None)
    if checkpoint is None:
        raise UserError(
            'name the config and the checkpoint behind the images, or an exported file: --onnx FILE.'
        )
    from paca_mm.datasets.images import find_images
    from paca_mm.engine.config import load_config
    from paca_mm.engine.predict import Predictor, predict_all

    images = find_images(*words)
    cfg = load_config(config, shapes=args.shapes)
    predictor = Predictor(cfg, checkpoint, args.device)
    records = predict_all(
        predictor, images, args.out, 0.3 if args.score_thr is None else args.score_thr
    )
    return _report(records, images, args.out, 'drawn images and predictions.json')


def _run_exported(args: argparse.Namespace) -> int:
    given = {'--device': args.device, '--shapes': args.shapes,
             '--score-thr': args.score_thr is not None}  # fmt: skip
    for word in args.words:
        given |= {f'config ({word})': word.lower().endswith(CONFIGS)}
        given |= {f'checkpoint ({word})': word.lower().endswith(CHECKPOINTS)}
    if no := next((name for name, value in given.items() if value), None):
        raise UserError(f'--onnx needs no {no}: the file says all of it. Leave it out.')
    from paca_mm.deploy.predict import can_draw, find_images, predict_all
    from paca_mm.deploy.runtime import load

    images = find_images(*args.words)
    drawing = can_draw()
    records = predict_all(load(args.onnx), images, args.out, drawing)
    what = 'drawn images and predictions.json' if drawing else 'predictions.json (no drawings)'
    code = _report(records, images, args.out, what)
    if not drawing:
        print('for drawings: pip install opencv-python-headless matplotlib pillow')
    return code


def _report(records: Iterator[dict[str, Any]], images: Sequence[str], out: str, what: str) -> int:
    """A line for each image, and at the end those that could not be read; returns the exit code."""
    broken = []
    for number, record in enumerate(records, start=1):
        if fault := record.get('fault'):
            broken.append(fault)
        said = fault or f'{record["picture"]}: {describe(record)}'
        print(f'[{number}/{len(images)}] {said}', flush=True)
    if len(broken) < len(images):
        print(f'\n{what} are in {out}')
    if not broken:
        return 0
    rows = '\n  '.join(broken)
    print(
        f'\nerror: {len(broken)} of {len(images)} images could not be read:\n  {rows}\n'
        '  to fix it: fetch these files again.',
        file=sys.stderr,
    )
    return 1


def describe(record: dict[str, Any]) -> str:
    """One line about a prediction."""
    if 'instances' in record:
        found = [f'{i["class"]} {i["score"]:.2f}' for i in record['instances']]
    elif 'classes' in record:
        found = [f'{c["class"]} {c["share"]:.0%}' for c in record['classes']]
    else:
        found = [f'{t["class"]} {t["score"]:.2f}' for t in record['top']]
    more = f', {len(found) - 6} more' if len(found) > 6 else ''
    return ', '.join(found[:6]) + more or 'nothing found'
