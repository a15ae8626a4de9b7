"""The work behind ``paca-mm export``: build, write, compare, quantise."""

import argparse
import os
from math import lcm
from pathlib import Path
from typing import Any

import torch

from paca_mm.deploy.runtime import session_of
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.files import make_folder
from paca_mm.models.common.deploy import model_channels
from paca_mm.paths import command_line

from .check import TOLERANCE, compare, sizes_for
from .model import Leaving, leaving
from .onnx_file import OPSETS, exported, require_packages, save


def export(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    require_packages(args.exporter)
    cfg = load_config(args.config, args.cfg_options, shapes=args.shapes)
    file = Path(args.out or f'work_dirs/export/{Path(args.config).stem}.onnx')
    if file.suffix != '.onnx':
        raise UserError(f'--out {file}: the name must end in .onnx.')
    make_folder(file.parent, '--out')
    images = []
    if args.int8:
        from .int8 import calibration_images, require_int8

        require_int8(cfg, args)
        images = calibration_images(args.calibrate, args.num_images) if args.calibrate else []
    size = list(args.size) * 2 if args.size and len(args.size) == 1 else args.size
    settings: dict[str, Any] = dict(
        checkpoint=args.checkpoint,
        part=args.part,
        output=args.output,
        normalise=args.normalize,
        size=size,
        fixed=args.fixed,
        name=Path(args.config).stem,
    )
    model = leaving(cfg, form='plain' if args.plain else 'fast', **settings)
    print(describe(model))
    write(model, file, args.exporter, args.opset, size)
    print(f'\nsaved {file} ({_megabytes(file)})')
    if args.int8:
        from .int8 import quantise

        quantise(cfg, args, settings, model, file, images)
    elif model.meta.output != 'maps' and model.meta.pipeline is not None:
        # Whoever runs the file may have none of this but the command.
        print(f'to predict with it:\n  {command_line("infer", "IMAGES", "--onnx", str(file))}')


def write(
    model: Leaving,
    file: str | os.PathLike,
    exporter: str = 'torchscript',
    opset: int | None = None,
    size: list[int] | None = None,
    tolerance: float = TOLERANCE,
    say: Any = print,
) -> None:
    """Write a model's file and compare it with the model; a file that differs is removed.

    Raises:
        NotTheModel: The file gives something else than the model.
        UserError: See :func:`.onnx_file.exported`, :func:`.onnx_file.save`, :func:`.check.compare`.
    """
    path = Path(file)
    model.meta.exporter, model.meta.opset = exporter, opset or OPSETS[exporter]
    free = (0, 2, 3) if model.meta.size is None else (0,)
    graph = exported(model.module, example_of(model), model.names, exporter, opset, free)
    # Beside its name until it is found to be the model.
    tried = path.with_name(f'.{path.stem}.tried.onnx')
    try:
        save(graph, model.meta, tried)
        session = session_of(tried, torch.get_num_threads())
        for result in compare(model, session, sizes_for(model, size), tolerance):
            say(f'  {result}')
        del session
        os.replace(tried, path)
    finally:
        tried.unlink(missing_ok=True)


def example_of(model: Leaving) -> torch.Tensor:
    """Images to record the graph with: of sides that differ, in a batch of two."""
    meta = model.meta
    step = lcm(meta.multiple, 32)
    height, width = meta.size or (2 * max(step, 64), 3 * max(step, 64))
    # No constant image: some norms would see no variance.
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, model_channels(model.reference.model), height, width, generator=generator)


def describe(model: Leaving) -> str:
    """What is about to leave, and what is to be known of it."""
    meta = model.meta
    what = {'cls': 'classifier', 'seg': 'segmentor', 'det': 'detector'}[meta.task]
    if model.module.part != 'model':
        what = {'backbone': 'backbone', 'neck': 'backbone and neck'}[model.module.part]
    size = 'any size' if meta.size is None else f'{meta.size[0]}x{meta.size[1]}'
    if meta.multiple > 1 and meta.size is None:
        size = f'any size, sides multiples of {meta.multiple}'
    given = (
        'RGB pixels from 0 to 255'
        if meta.normalises
        else f'{meta.channels.upper()}, normalised by mean {_short(meta.mean)}, std {_short(meta.std)}'
    )
    lines = [
        f'{what} {meta.row or meta.config}: {", ".join(model.names)}',
        f'  images: any batch, {size}; {given}',
        *(f'  note: {note}' for note in meta.notes),
    ]
    return '\n'.join(lines)


def _short(values: list[float]) -> str:
    return '(' + ', '.join(f'{value:.6g}' for value in values) + ')'


def _megabytes(file: Path) -> str:
    return f'{file.stat().st_size / 1e6:.1f} MB'
