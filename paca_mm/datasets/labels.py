"""Whether the masks of a segmentation dataset fit its classes, and what to change if they do not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from paca_mm.errors import some_of

from .faults import Fault
from .images import SUFFIXES, fault_of, size_of


@dataclass(frozen=True)
class Labelling:
    """How the numbers in mask files become classes, in the way of mmseg's ``LoadAnnotations``.

    Attributes:
        num_classes: Number of classes.
        reduce_zero_label: 0 means "no label" and 1 the first class; otherwise 0 is the first class.
        label_map: From class to class, after that; for datasets that train on some of their classes.
        ignore_index: The class that stands for "no label", beside 255.
    """

    num_classes: int
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] | None = None
    ignore_index: int = 255

    def label_of(self, number: int) -> int:
        """The class that a number in a mask file stands for; 255 or ``ignore_index``: none."""
        if self.reduce_zero_label:
            number = 255 if number in (0, 255) else number - 1
        return (self.label_map or {}).get(number, number)

    def fits(self, number: int) -> bool:
        """Whether a number in a mask file is a class, or "no label"."""
        label = self.label_of(number)
        return 0 <= label < self.num_classes or label in (255, self.ignore_index)

    def no_class(self, mask: str, wrong: Sequence[int], found: Collection[int] = ()) -> Fault:
        """The fault of numbers that do not fit.

        Args:
            mask: The file.
            wrong: Its numbers that do not fit.
            found: All numbers in all masks that were looked at, if known: they tell whether
                ``reduce_zero_label`` is the mistake.
        """
        count, first = self.num_classes, int(self.reduce_zero_label)
        numbers = f'number{"s" if len(wrong) > 1 else ""} {some_of(wrong)}'
        none = '255' if self.ignore_index == 255 else f'{self.ignore_index} or 255'
        what = (
            f'holds the class {numbers}, which the model does not have. Expected: {first} to '
            f'{first + count - 1} for the {count} classes, {"0 or " if first else ""}{none} for "no '
            f'label" (reduce_zero_label={self.reduce_zero_label}).'
        )
        cure = (
            'correct the masks, or name all classes: metainfo=dict(classes=...) in each dataset and '
            'num_classes in each head.'
        )
        if not first and not self.label_map and max(set(found) - {255}, default=0) == count:
            cure = (
                f'if 0 means "no label" in the masks and 1 to {count} are the classes, set '
                f'reduce_zero_label=True in each dataset; if 0 is a class too, there are {count + 1}'
                f': metainfo=dict(classes=...) in each dataset, num_classes={count + 1} in each head.'
            )
        return Fault('mask-number', mask, what, cure)


class Mask(NamedTuple):
    """What a mask was found to hold.

    Attributes:
        counts: Its numbers and how many pixels have each; empty where Pillow does not read it.
        fault: What is wrong with it as the mask of its image.
    """

    counts: dict[int, int]
    fault: Fault | None = None


def size_fault(
    image: str, size: Sequence[int], mask: str, size_of_mask: Sequence[int]
) -> Fault | None:
    """The fault of a mask that is not as large as its image. Sizes are (height, width)."""
    if tuple(size) == tuple(size_of_mask):
        return None
    return Fault(
        'mask-size',
        mask,
        f'has {size_of_mask[1]} x {size_of_mask[0]} pixels, but its image {image} '
        f'has {size[1]} x {size[0]}.',
        'bring the mask to the size of the image (by nearest neighbour: numbers of classes have no '
        'middle).',
    )


def look_at_mask(image: str, mask: str) -> Mask:
    """The numbers in a mask, and whether it is a mask of its image."""
    try:
        with Image.open(mask) as file:
            numbers = np.asarray(file)
    except Exception:  # whatever a damaged file trips over
        fault = fault_of(mask, decode=True) if mask.lower().endswith(SUFFIXES) else None
        cure = 'write it again, or remove it and its image.'
        return Mask(
            {}, Fault('unreadable-mask', f'the mask {mask}', f'{fault}.', cure) if fault else None
        )
    if numbers.ndim != 2:
        what = f'has {numbers.shape[2]} channels: a mask has one, which holds the number of each '
        cure = 'write the numbers of the classes instead of their colours.'
        return Mask({}, Fault('mask-channels', mask, f"{what}pixel's class.", cure))
    size = size_of(image)
    values, counts = np.unique(numbers, return_counts=True)
    return Mask(
        dict(zip(map(int, values.tolist()), counts.tolist(), strict=True)),
        size_fault(image, (size.height, size.width), mask, numbers.shape) if size else None,
    )
