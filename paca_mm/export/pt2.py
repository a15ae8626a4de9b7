"""``torch.export``: a model as a ``.pt2`` file, which torch runs without this package and the hosts."""

import copy
import inspect
import itertools
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm import __version__
from paca_mm.errors import UserError
from paca_mm.files import replacing
from paca_mm.models.common.deploy import model_channels

#: What a file keeps its metadata under.
METADATA = 'paca_mm.json'

#: The largest difference to the model that is rounding, by ``a - b <= TOLERANCE * (1 + b)``.
TOLERANCE = 1e-3


class Plain(nn.Module):
    """A model as a function of a batch of images, without what the hosts wrap around its tensors.

    Args:
        model: A backbone; a classifier, which gives its logits; a segmentor, which gives those of its
            decode head, at that head's resolution; or a detector, which gives the maps of its neck.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), normalised -> a tuple of tensors."""
        model = self.model
        if not hasattr(model, 'extract_feat'):
            out = model(images)
        else:
            out = model.extract_feat(images)
            if getattr(model, 'decode_head', None) is not None:
                out = model.decode_head(out)
            elif getattr(model, 'head', None) is not None:
                out = model.head(out)
        return (out,) if isinstance(out, Tensor) else tuple(out)


@dataclass(frozen=True)
class Checked:
    """What a program gave beside the model it was made of.

    Attributes:
        shapes: Of the images, (B, C, H, W) each, that were tried.
        difference: The largest, over all of them, of values of any output.
        outputs: The shapes of what the first of them gave.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    outputs: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        tried = ', '.join(' x '.join(map(str, shape)) for shape in self.shapes)
        return f'checked on {tried}: largest difference {self.difference:.2g}'


def export_pt2(
    model: nn.Module,
    file: str | os.PathLike,
    size: Sequence[int] = (224, 224),
    batch: int = 1,
    dynamic: bool | str = True,
    check_sizes: Sequence[Sequence[int]] = ((160, 256), (224, 224), (97, 131)),
    metadata: Mapping[str, Any] | None = None,
) -> Checked:
    """Write a model as a ``.pt2`` file and run it beside the model.

    To run it: ``torch.export.load(file).module()(images)``, a tuple of tensors. What goes in is
    normalised, as :class:`Plain` says.

    Args:
        model: A backbone or a host's model; see :class:`Plain`. It stays as it is, and the file has it
            in evaluation mode, on the CPU.
        file: The file; its name ends in ``.pt2``.
        size: Height and width of the images that it is exported with.
        batch: How many images, likewise.
        dynamic: Let the file take any number of images and any height and width above 32 pixels;
            ``'batch'``: any number of images of ``size``. False: ``batch`` images of ``size`` and
            nothing else.
        check_sizes: Other heights and widths that are tried, with other numbers of images.
        metadata: Plain data that goes into the file, under :data:`METADATA`.

    Raises:
        UserError: The name is another kind of file's, the file cannot be written, or this model or this
            torch cannot be exported for more than one size; the message says what can.
        RuntimeError: The program gives something else than the model: there is no file then.
    """
    target = Path(file).expanduser()
    if target.suffix != '.pt2':
        raise UserError(f'{target}: the name must end in .pt2.')
    knows_shapes = 'dynamic_shapes' in _arguments()
    if dynamic not in (True, False, 'batch'):
        raise UserError(f"dynamic={dynamic!r}: it must be True, False or 'batch'.")
    if dynamic and not knows_shapes:
        raise UserError(
            f'torch {torch.__version__} exports for one size only: dynamic=False (and size=..., '
            'batch=...), or a newer torch.'
        )
    plain = Plain(copy.deepcopy(model)).cpu().eval().requires_grad_(False)
    _use_torchs_norms(plain)
    channels = model_channels(model)
    # One image would be taken for a constant.
    images = _images(max(batch, 2) if dynamic else batch, channels, size)
    # torch 2.1 can export its fused attention, and cannot write it to a file.
    kernels = nullcontext() if knows_shapes else torch.backends.cuda.sdp_kernel(enable_flash=False)
    with torch.no_grad(), kernels:
        program = _exported(plain, images, dynamic)
        tried = [images]
        if dynamic:
            sizes = [size] if dynamic == 'batch' else check_sizes
            numbers = itertools.cycle((1, 3, 2))
            tried += [_images(next(numbers), channels, wanted) for wanted in sizes]
        checked = _checked(program, plain, tried)
    kept = json.dumps({'paca_mm_version': __version__, 'dynamic': dynamic, **(metadata or {})})
    with replacing(target, ending='.pt2') as part:
        torch.export.save(program, str(part), extra_files={METADATA: kept})
    return checked


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


def _exported(plain: nn.Module, images: Tensor, dynamic: bool | str) -> Any:
    if not dynamic:
        return torch.export.export(plain, (images,))
    dims = {0: torch.export.Dim('batch')}
    if dynamic is True:
        # torch keeps 32 pixels, of which a stage of stride 32 makes a single position, for another case.
        dims |= {2: torch.export.Dim('height', min=33), 3: torch.export.Dim('width', min=33)}
    options: dict[str, Any] = {}
    if 'prefer_deferred_runtime_asserts_over_guards' in _arguments():
        # Two levels of a pyramid differ in size: torch cannot prove it, and sees to it when it runs.
        options['prefer_deferred_runtime_asserts_over_guards'] = True
    try:
        return torch.export.export(plain, (images,), dynamic_shapes=(dims,), **options)
    except Exception as e:
        if type(e).__name__ not in ('UserError', 'ConstraintViolationError', 'ValueError'):
            raise
        if 'onstraint' not in str(e):
            raise
        other = "dynamic='batch'" if dynamic is True else 'dynamic=False'
        reasons = [line.strip(' -') for line in str(e).splitlines() if line.startswith('  - ')]
        raise UserError(
            f'this model cannot be exported for images of every size: {(reasons or [str(e)])[0]}\n'
            f'  to fix it: {other} with the size that it is to have.'
        ) from e


def read_metadata(file: str | os.PathLike) -> dict[str, Any]:
    """What :func:`export_pt2` has put into a file beside the program."""
    kept: dict[str, Any] = {METADATA: ''}
    torch.export.load(os.fspath(file), extra_files=kept)
    text = kept[METADATA]
    return json.loads(text) if text else {}


def _arguments() -> Collection[str]:
    """What this torch's export can be told."""
    return inspect.signature(torch.export.export).parameters.keys()


def _images(count: int, channels: int, size: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, *size, generator=generator)


def _checked(program: Any, plain: nn.Module, tried: Sequence[Tensor]) -> Checked:
    run = program.module() if hasattr(program, 'module') else program
    worst = 0.0
    outputs: tuple[tuple[int, ...], ...] = ()
    for images in tried:
        found, expected = run(images), plain(images)
        for a, b in zip(found, expected, strict=True):
            difference = float((a - b).abs().max())
            worst = max(worst, difference)
            if a.shape != b.shape or not difference <= TOLERANCE * (1 + float(b.abs().max())):
                raise RuntimeError(
                    f'the exported program differs from the model by {difference:.3g} on images '
                    f'{tuple(images.shape)}: it is not written.'
                )
        outputs = outputs or tuple(tuple(t.shape) for t in expected)
    return Checked(tuple(tuple(t.shape) for t in tried), worst, outputs)
