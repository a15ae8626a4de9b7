"""The work behind ``paca-mm export``: build, write, compare, quantise."""

import argparse
import os
from math import lcm
from pathlib import Path
from typing import Any

import torch

from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.files import make_folder
from paca_mm.models.common.deploy import model_channels
from paca_mm.paths import command_line

from . import onnx_file, pt2
from .check import TOLERANCE, compare, sizes_for
from .model import Leaving, leaving

#: What the name of a file may end in.
SUFFIXES = ('.onnx', '.pt2')


def export(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    exporter = args.exporter or 'torchscript'
    if args.format == 'onnx':
        onnx_file.require_packages(exporter)
    cfg = load_config(args.config, args.cfg_options, shapes=args.shapes)
    file = Path(args.out or f'work_dirs/export/{Path(args.config).stem}.{args.format}')
    make_folder(file.parent, '--out')
    images = []
    if args.int8:
        from .int8 import NUM_IMAGES, calibration_images, require_int8

        require_int8(cfg, args)
        count = args.num_images or NUM_IMAGES
        images = calibration_images(args.calibrate, count) if args.calibrate else []
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
    write(model, file, exporter, args.opset, size)
    print(f'\nsaved {file} ({_megabytes(file)})')
    if args.format == 'pt2':
        outputs = f'{", ".join(model.names)}{"," if len(model.names) == 1 else ""}'
        print(
            'to run it, by torch alone:\n'
            f'  program = torch.export.load({str(file)!r}).module()\n'
            f'  {outputs} = program(images)'
        )
    elif args.int8:
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

    Args:
        model: The model.
        file: Its name ends in ``.onnx`` or in ``.pt2``, and says which of them it becomes.
        exporter: Of :data:`.onnx_file.EXPORTERS`; of ONNX alone.
        opset: Likewise; of :data:`.onnx_file.OPSETS` by default.
        size: Height and width to compare on first.
        tolerance: Of :func:`.check.compare`.
        say: Takes each line.

    Raises:
        NotTheModel: The file gives something else than the model.
        UserError: The name ends in something else; see ``exported`` and ``save`` of :mod:`.onnx_file`
            and :mod:`.pt2`, and :func:`.check.compare`.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise UserError(f'{path}: the name must end in {" or ".join(SUFFIXES)}.')
    is_pt2 = path.suffix == '.pt2'
    example, above = example_of(model), 0
    if is_pt2:
        above = pt2.sides_above(model.module, example)
        pt2.note(model.meta, above, size)
    else:
        model.meta.exporter, model.meta.opset = exporter, opset or onnx_file.OPSETS[exporter]
    say(describe(model))
    shapes = sizes_for(model, size)
    if is_pt2 and pt2.one_shape_only():
        example, shapes = example[:1], shapes[:1]
    free = (0, 2, 3) if model.meta.size is None else (0,)
    # Beside its name until it is found to be the model.
    tried = path.with_name(f'.{path.stem}.tried{path.suffix}')
    run: Any
    try:
        if is_pt2:
            program = pt2.exported(model.module, example, free, above)
            pt2.save(program, model.meta, tried)
            run = pt2.runner(tried)
        else:
            graph = onnx_file.exported(model.module, example, model.names, exporter, opset, free)
            onnx_file.save(graph, model.meta, tried)
            run = onnx_file.runner(tried, torch.get_num_threads())
        for result in compare(model, run, shapes, tolerance):
            say(f'  {result}')
        del run
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
    what = {'cls': 'classifier', 'seg': 'segmentor', 'det': 'detector'}.get(meta.task, '')
    if model.module.part != 'model':
        what = {'backbone': 'backbone', 'neck': 'backbone and neck'}[model.module.part]
    size = 'any size' if meta.size is None else f'{meta.size[0]}x{meta.size[1]}'
    if meta.multiple > 1 and meta.size is None:
        size = f'any size, sides multiples of {meta.multiple}'
    if meta.normalises:
        given = 'RGB pixels from 0 to 255'
    elif meta.mean:
        mean, std = _short(meta.mean), _short(meta.std)
        given = f'{meta.channels.upper()}, normalised by mean {mean}, std {std}'
    else:
        given = 'as the model takes them'
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
