"""Whether the masks of a segmentation dataset fit its classes, and what to change if they do not."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from paca_mm.errors import UserError, some_of

from .images import SUFFIXES, a_sample, fault_of, size_of


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

    def no_class(self, mask: str, wrong: Sequence[int], found: Sequence[int] = ()) -> str:
        """The message for numbers that do not fit.

        Args:
            mask: The file.
            wrong: Its numbers that do not fit.
            found: All numbers in all masks that were looked at, if known: they tell whether
                ``reduce_zero_label`` is the mistake.
        """
        count, first = self.num_classes, int(self.reduce_zero_label)
        numbers = f'number{"s" if len(wrong) > 1 else ""} {some_of(wrong)}'
        message = (
            f'{mask} holds the class {numbers}, which the model does not have. Expected: {first} to '
            f'{first + count - 1} for the {count} classes, {"0 or " if first else ""}255 for "no '
            f'label" (reduce_zero_label={self.reduce_zero_label}).\n  to fix it: '
        )
        if not first and not self.label_map and max(set(found) - {255}, default=0) == count:
            return (
                f'{message}if 0 means "no label" in the masks and 1 to {count} are the classes, set '
                f'reduce_zero_label=True in each dataset; if 0 is a class too, there are {count + 1}'
                f': metainfo=dict(classes=...) in each dataset, num_classes={count + 1} in each head.'
            )
        return (
            f'{message}correct the masks, or name all classes: metainfo=dict(classes=...) in each '
            'dataset and num_classes in each head.'
        )


def check_masks(
    pairs: Sequence[tuple[str, str]], labelling: Labelling, sample: int, every_class: bool
) -> None:
    """Look at images and their masks. Masks in a format that Pillow does not read are passed over.

    Args:
        pairs: Files of the images and of their masks.
        labelling: What the numbers in the masks mean.
        sample: Look at so many pairs only, drawn at random (a fixed draw).
        every_class: Whether all classes should occur, as they should in data to train on.

    Raises:
        UserError: A mask is missing, torn, not of one channel or not of its image's size; it holds
            a number that is no class; the numbers show that ``reduce_zero_label`` is wrong.
    """
    looked_at = a_sample(pairs, sample)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(_numbers_of, looked_at))
    found = sorted(set().union(*numbers))
    for (_, mask), of_mask in zip(looked_at, numbers, strict=True):
        if wrong := [n for n in of_mask if not labelling.fits(n)]:
            raise UserError(labelling.no_class(mask, wrong, found))
    message = every_class and _doubt(os.path.dirname(pairs[0][1]), labelling, found)
    if message and len(looked_at) < len(pairs):
        check_masks(pairs, labelling, len(pairs), every_class)  # a rare class may dispel it
    elif message:
        raise UserError(message)


def _doubt(folder: str, labelling: Labelling, found: Sequence[int]) -> str | None:
    """What is strange about the numbers in all masks of a folder, each of which fits."""
    count = labelling.num_classes
    # All numbers that there would be if 0 were a class, and not the last one that there should be.
    if labelling.reduce_zero_label and {*found} - {255} == {*range(count)}:
        return (
            f'the masks in {folder} hold the numbers 0 to {count - 1}, one for '
            f'each of the {count} classes, but reduce_zero_label=True takes 0 for "no label" and 1 for '
            'the first class: every class would be learned under the name of the one before it.\n'
            "  to fix it: reduce_zero_label=False in each dataset, with type='BaseSegDataset' if its "
            'type does not take that.'
        )
    labels = {labelling.label_of(number) for number in found}
    classes = labels - {255, labelling.ignore_index}
    if len(classes) < 2 and labels != classes:
        none = [n for n in found if labelling.label_of(n) not in classes]
        return (
            f'the masks in {folder} hold the numbers {some_of(found)} and no others, of which '
            f'{some_of(none)} means "no label" (reduce_zero_label={labelling.reduce_zero_label}): that '
            f'leaves {len(classes)} of the {count} classes, and nothing to tell apart.\n'
            '  to fix it: number the classes from 0 on. In black and white masks, 1 instead of 255.'
        )
    return None


def check_size(image: str, size: Sequence[int], mask: str, size_of_mask: Sequence[int]) -> None:
    """See that a mask is as large as its image. Sizes are (height, width).

    Raises:
        UserError: It is not.
    """
    if tuple(size) != tuple(size_of_mask):
        raise UserError(
            f'{mask} has {size_of_mask[1]} x {size_of_mask[0]} pixels, but its image {image} '
            f'has {size[1]} x {size[0]}.\n  to fix it: bring the mask to the size of the image '
            '(by nearest neighbour: numbers of classes have no middle).'
        )


def _numbers_of(pair: tuple[str, str]) -> set[int]:
    """The numbers in a mask, after seeing that it is a mask of its image."""
    image, mask = pair
    if not os.path.isfile(mask):
        raise UserError(
            f'{image} has no mask.\n  looked for: {os.path.abspath(mask)}\n'
            '  to fix it: put it there, remove the image, or correct seg_map_suffix.'
        )
    try:
        with Image.open(mask) as file:
            numbers = np.asarray(file)
    except Exception as e:  # whatever a damaged file trips over
        if mask.lower().endswith(SUFFIXES) and (fault := fault_of(mask, decode=True)):
            raise UserError(
                f'the mask {mask} {fault}.\n  to fix it: write it again, or remove it and its image.'
            ) from e
        return set()
    if numbers.ndim != 2:
        raise UserError(
            f'{mask} has {numbers.shape[2]} channels: a mask has one, which holds the number of each '
            "pixel's class.\n  to fix it: write the numbers of the classes instead of their colours."
        )
    if size := size_of(image):
        check_size(image, (size.height, size.width), mask, numbers.shape)
    return set(np.unique(numbers).tolist())
