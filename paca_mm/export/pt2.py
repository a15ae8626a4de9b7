"""Writing ``.pt2``: torch.export, then what the file says about itself. Torch alone runs the file."""

import inspect
import os
from collections.abc import Callable, Collection, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from paca_mm.deploy.meta import KEY, Meta
from paca_mm.errors import UserError
from paca_mm.files import replacing


def sides_above(module: nn.Module, example: Tensor) -> int:
    """What the sides of an image must be above in a file for any size, in pixels.

    Below, the coarsest map has a single position, which torch keeps for another case: that of stride 32
    inside of a model, or one of the outputs.

    Args:
        module: In eval mode, images in, a tuple of tensors out.
        example: Images (B, C, H, W).
    """
    with torch.no_grad():
        maps = [output for output in module(example) if output.ndim == 4]
    return max([32, *(ceil(example.shape[2] / m.shape[2]) for m in maps)])


def note(meta: Meta, above: int, size: Sequence[int] | None = None) -> None:
    """Say in a file's facts what torch.export makes of them.

    Args:
        meta: The facts.
        above: See :func:`sides_above`.
        size: Height and width of an image that the file is to take.

    Raises:
        UserError: This torch cannot write such a file, or the file could not take the image.
    """
    meta.exporter, meta.opset = 'torch.export', 0
    if one_shape_only():
        if meta.size is None:
            raise UserError(
                f'torch {torch.__version__} exports a .pt2 file for one size only.\n'
                '  to fix it: --fixed, with --size H W; or a newer torch.'
            )
        meta.notes.append(f'torch {torch.__version__} exports it for one image at a time')
    elif meta.size is None:
        if size and min(size) <= above:
            raise UserError(
                f'--size {size[0]} {size[1]}: a .pt2 file for any size takes sides above {above} '
                'pixels.\n  to fix it: a larger --size, or --fixed.'
            )
        meta.notes.append(f'height and width must be above {above} pixels')


def one_shape_only() -> bool:
    """Whether this torch exports for the shape of its example alone, as 2.1 does."""
    return 'dynamic_shapes' not in _arguments()


def exported(
    module: nn.Module, example: Tensor, free: Sequence[int] = (0, 2, 3), above: int = 32
) -> Any:
    """The program of a module, a ``torch.export.ExportedProgram``.

    Args:
        module: In eval mode, images in, a tuple of tensors out. Stand-ins for torch's BatchNorm in it
            are exchanged for that.
        example: Images (B, C, H, W); B is 2 or more where it is to be free.
        free: The axes of the input that may be others than the example's: 0, 2 and 3, or fewer.
        above: See :func:`sides_above`.

    Raises:
        UserError: The module cannot be exported for more than one size.
    """
    _use_torchs_norms(module)
    if one_shape_only():
        # torch 2.1 can export its fused attention, and cannot write it to a file.
        with torch.no_grad(), torch.backends.cuda.sdp_kernel(enable_flash=False):
            program = torch.export.export(module, (example,))
        return _without_lines(program)
    names = {0: 'batch', 2: 'height', 3: 'width'}
    dims = {axis: torch.export.Dim(names[axis], min=above + 1 if axis else None) for axis in free}
    options: dict[str, Any] = {}
    if 'prefer_deferred_runtime_asserts_over_guards' in _arguments():
        # Two levels of a pyramid differ in size: torch cannot prove it, and sees to it when it runs.
        options['prefer_deferred_runtime_asserts_over_guards'] = True
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=(dims,), **options)
    except Exception as e:
        if type(e).__name__ not in ('UserError', 'ConstraintViolationError', 'ValueError'):
            raise
        if 'onstraint' not in str(e):
            raise
        reasons = [line.strip(' -') for line in str(e).splitlines() if line.startswith('  - ')]
        raise UserError(
            f'this model cannot be exported for images of every size: {(reasons or [str(e)])[0]}\n'
            '  to fix it: --fixed, with --size H W.'
        ) from e
    return _without_lines(program)


def _arguments() -> Collection[str]:
    """What this torch's export can be told."""
    return inspect.signature(torch.export.export).parameters.keys()


def _use_torchs_norms(model: nn.Module) -> None:
    """Torch's BatchNorm for mmengine's stand-in for SyncBatchNorm, into which torch 2.1 cannot look."""
    for module in model.modules():
        for name, norm in module.named_children():
            if type(norm).__name__ == '_BatchNormXd':
                kept: Any = norm
                own = nn.BatchNorm2d(
                    kept.num_features,
                    kept.eps,
                    kept.momentum,
                    kept.affine,
                    kept.track_running_stats,
                )
                own.load_state_dict(kept.state_dict())
                setattr(module, name, own.eval().requires_grad_(False))


def _without_lines(program: Any) -> Any:
    """The program, less what tells of the machine that exported: the lines of code behind every node."""
    for graph in program.graph_module.modules():
        for node in getattr(getattr(graph, 'graph', None), 'nodes', ()):
            node.meta.pop('stack_trace', None)
    return program


def save(program: Any, meta: Meta, file: str | os.PathLike) -> None:
    """Write a program with what it says about itself; the file appears complete or not at all.

    Raises:
        CannotWrite: The system refuses it.
    """
    with replacing(file, '--out', ending='.pt2') as part:
        torch.export.save(program, str(part), extra_files={KEY: meta.text()})


def runner(file: str | os.PathLike) -> Callable[[Tensor], list[NDArray[Any]]]:
    """What runs a file: images (B, C, H, W) -> its outputs."""
    program = torch.export.load(os.fspath(file)).module()

    def run(images: Tensor) -> list[NDArray[Any]]:
        with torch.no_grad():
            return [output.numpy() for output in program(images)]

    return run


def read_meta(file: str | os.PathLike) -> Meta:
    """What a file says about itself.

    Raises:
        UserError: It says nothing, or was written by a newer version.
    """
    kept: dict[str, Any] = {KEY: ''}
    torch.export.load(os.fspath(file), extra_files=kept)
    return Meta.of({key: text for key, text in kept.items() if text}, os.fspath(file))
