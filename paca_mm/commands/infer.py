"""Predict images with a checkpoint: drawn images and predictions.json in one folder.

An image that cannot be read is named at the end, and the exit code is then 1.
"""

import argparse
import sys
from typing import Any

EXAMPLES = ['street.jpg configs/det/mask_rcnn_paca.py CHECKPOINT --out predicted']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('input', help='an image, a folder, or a quoted glob')
    parser.add_argument('config', help='the config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='a .pth or .safetensors file, official or ours')
    parser.add_argument(
        '--out', default='work_dirs/infer', help='the folder (default: %(default)s)'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a detection (default: 0.3)'
    )
    parser.add_argument('--device', help='such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument(
        '--shapes', action='store_true', help='the checkpoint was trained with --shapes'
    )


def run(args: argparse.Namespace) -> int:
    from paca_mm.datasets.images import find_images
    from paca_mm.engine.config import load_config
    from paca_mm.engine.predict import Predictor, predict_all

    images = find_images(args.input)
    cfg = load_config(args.config, shapes=args.shapes)
    predictor = Predictor(cfg, args.checkpoint, args.device)
    broken = []
    records = predict_all(predictor, images, args.out, args.score_thr)
    for number, record in enumerate(records, start=1):
        if fault := record.get('fault'):
            broken.append(fault)
        said = fault or f'{record["picture"]}: {describe(record)}'
        print(f'[{number}/{len(images)}] {said}', flush=True)
    if len(broken) < len(images):
        print(f'\ndrawn images and predictions.json are in {args.out}')
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
