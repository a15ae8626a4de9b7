"""A file beside the model that it was made of: the same images, the largest difference."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.models.common.deploy import model_channels

from .model import Leaving

#: The largest difference that is rounding, as a share of the largest value of an output.
TOLERANCE = 1e-4


class NotTheModel(RuntimeError):
    """A file gives something else than the model it was made of: a fault of ours, and no mistake of a
    user. Command lines show where it was found, and end with code 1.
    """


@dataclass(frozen=True)
class Agreement:
    """How far apart file and model are on images of one size.

    Attributes:
        shape: Batch, height and width.
        largest: The largest difference of any output; of labels, by how much the model's logit of the
            file's label is below its best.
        scale: The largest value of that output.
    """

    shape: tuple[int, int, int]
    largest: float
    scale: float

    @property
    def share(self) -> float:
        return self.largest / max(self.scale, 1e-12)

    def __str__(self) -> str:
        batch, height, width = self.shape
        return (
            f'{batch} x {height}x{width}: largest difference {self.largest:.2g} '
            f'({self.share:.1g} of the largest value)'
        )


def sizes_for(model: Leaving, first: Sequence[int] | None = None) -> list[tuple[int, int, int]]:
    """Batch, height and width of the images to compare on: one size of a file that is fixed."""
    if model.meta.size:
        height, width = model.meta.size
        return [(batch, height, width) for batch in (1, 2, 3)]
    step = model.meta.multiple
    if step > 1:
        step *= -(-17 // step)  # twice of it is above 32 pixels
        sizes = [(1, 4, 4), (2, 3, 5), (3, 2, 3)]
        found = [(b, h * step, w * step) for b, h, w in sizes]
    else:
        found = [(1, 224, 224), (2, 161, 203), (3, 96, 131)]
    return ([(1, int(first[0]), int(first[1]))] if first else []) + found


def compare(
    model: Leaving,
    run: Callable[[Tensor], Sequence[Any]],
    shapes: Sequence[tuple[int, int, int]],
    tolerance: float = TOLERANCE,
) -> Iterator[Agreement]:
    """Run file and model on the same random images of each size.

    Args:
        model: What was exported.
        run: Runs the file: images (B, C, H, W) -> its outputs, arrays of numpy.
        shapes: Batch, height and width.
        tolerance: As a share of the largest value.

    Yields:
        How far apart they are.

    Raises:
        NotTheModel: They are further apart than the tolerance.
        UserError: The file cannot be run at a size, or returns another shape there, so that the model
            may be bound to a size; or the model itself returns values that are not finite.
    """
    generator = torch.Generator().manual_seed(0)
    channels = model_channels(model.reference.model)
    for batch, height, width in shapes:
        x = torch.randn(batch, channels, height, width, generator=generator)
        if model.meta.normalises:
            x = (x * 60 + 128).clamp(0, 255)
        with torch.no_grad():
            expected = model.reference(x)
        where = f'{batch} x {height}x{width}'
        if not all(t.isfinite().all() for t in expected):
            raise UserError(
                f'the model returns values that are not finite on random images ({where}), so that no '
                'file can be compared with it.\n  to fix it: another checkpoint.'
            )
        try:
            found = run(x)
        except Exception as e:
            raise UserError(
                f'the exported file cannot be run on {where}: {str(e).splitlines()[0]}\n'
                '  to fix it: this model may be bound to one size: --fixed, with --size H W.'
            ) from e
        largest, scale = 0.0, 0.0
        for ours, theirs in zip(expected, found, strict=True):
            if tuple(ours.shape) != theirs.shape:
                raise UserError(
                    f'the exported file returns {theirs.shape} where the model returns '
                    f'{tuple(ours.shape)} ({where}).\n'
                    '  to fix it: this model may be bound to one size: --fixed, with --size H W.'
                )
            off, most = _difference(model, x, ours, theirs)
            if off / max(most, 1e-12) >= largest / max(scale, 1e-12):
                largest, scale = off, most
        result = Agreement((batch, height, width), largest, scale)
        if not result.share <= tolerance:  # NaN too
            raise NotTheModel(
                f'the exported file is not the model: {result}, and {tolerance:g} is allowed, so there '
                'is no file.\n  This is a fault of paca_mm: please report it, with the command and '
                'the output of paca-mm doctor.\n'
                '  Until then: --plain exports the layers as they are written; if that fails too, '
                '--fixed with --size H W, or another --exporter or --format.'
            )
        yield result


def _difference(model: Leaving, x: Tensor, ours: Tensor, theirs: Any) -> tuple[float, float]:
    """The largest difference and the largest value."""
    if model.meta.output != 'labels':
        expected = ours.numpy()
        return float(np.abs(expected - theirs).max()), float(np.abs(expected).max())
    # Two logits may be equal up to rounding, and either label is right then.
    reference = model.reference
    output, reference.output = reference.output, 'logits'
    try:
        with torch.no_grad():
            (logits,) = reference(x)
    finally:
        reference.output = output
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), _above(model, logits)], 1)
    chosen = logits.gather(1, torch.as_tensor(theirs).unsqueeze(1))
    below = logits.amax(1, keepdim=True) - chosen
    return float(below.max()), float(logits.abs().max())


def _above(model: Leaving, logits: Tensor) -> Tensor:
    """A single logit less the one that the threshold is at."""
    threshold = torch.tensor(model.meta.threshold)
    return logits - torch.logit(threshold)
