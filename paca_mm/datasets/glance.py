"""How many files of a dataset are looked at, and how closely: a sample before a run."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from .images import Size, a_sample, fault_of, is_deep, size_of
from .labels import Mask, look_at_mask

T = TypeVar('T')


class Glance:
    """A glance: a sample of the files, the ends and the heads of each.

    Attributes:
        most_images: Images looked at; the others are found when they are read. None for all.
        most_masks: Masks looked at, which takes longer: each is decoded.
    """

    most_images: int | None = 2000
    most_masks: int | None = 200

    def some(self, files: Iterable[str]) -> list[str]:
        """The images that are looked at."""
        return a_sample(files, self.most_images)

    def some_masks(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The images whose masks are looked at, with their masks."""
        return a_sample(pairs, self.most_masks)

    def faults(self, files: Sequence[str], loader: str | None) -> list[str | None]:
        """What is wrong with each image; see :func:`~paca_mm.datasets.images.fault_of`."""
        return _of_each(partial(fault_of, loader=loader), files)

    def sizes(self, files: Sequence[str]) -> list[Size | None]:
        """The size of each image."""
        return _of_each(size_of, files)

    def deep(self, files: Sequence[str]) -> list[bool]:
        """Whether each image has more than 8 bits a pixel."""
        return _of_each(is_deep, files)

    def masks(self, pairs: Sequence[tuple[str, str]]) -> list[Mask]:
        """What each mask holds."""
        return _of_each(lambda pair: look_at_mask(*pair), pairs)


def _of_each(what: Callable[[Any], T], things: Sequence[Any]) -> list[T]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(what, things))
