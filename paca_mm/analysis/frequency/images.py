"""The images that spectra are taken of: as a config's test pipeline hands them to its network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor

from paca_mm.datasets.images import broken_images, find_images, loader_of
from paca_mm.engine.checks import check_config
from paca_mm.engine.data_checks import datasets_of
from paca_mm.engine.loading import NamesFile
from paca_mm.engine.predict import image_pipeline
from paca_mm.engine.tasks import task_for
from paca_mm.environment import require
from paca_mm.errors import UserError

from .spectrum import Spectrum, join, spectrum_of

#: Sides are cut to a multiple of this, so that no network pads them.
_MULTIPLE = 32

#: Images that run through a network at once.
_BATCH = 16


@dataclass(frozen=True)
class Images:
    """Images as a network sees them before they are normalised.

    Attributes:
        source: Where they are from, in words.
        found: How many there are.
        files: Those that were taken, one for each of ``pixels``, as far as they have names.
        pixels: Each (3, H, W), of the values that the pipeline gives.
    """

    source: str
    found: int
    files: tuple[str, ...]
    pixels: tuple[Tensor, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first."""
        height, width = self.pixels[0].shape[1:]
        return height, width

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The different heights and widths, in pixels."""
        return sorted({(image.shape[1], image.shape[2]) for image in self.pixels})

    def batches(self) -> Iterator[Tensor]:
        """(B, 3, H, W): the images, of one size in each batch."""
        for size in self.sizes:
            same = [image for image in self.pixels if tuple(image.shape[1:]) == size]
            for i in range(0, len(same), _BATCH):
                yield torch.stack(same[i : i + _BATCH])

    def spectrum(self, window: str = 'hann') -> Spectrum:
        """The spectra of the grey images (the mean of the three channels, 1 for white).

        Images of one colour have no spectrum and are left out.

        Raises:
            UserError: All of them are of one colour.
        """
        parts = []
        for batch in self.batches():
            grey = batch.double().mean(1, keepdim=True) / 255
            height, width = grey.shape[2:]
            if part := spectrum_of(grey, (height, width), window).with_detail():
                parts.append(part)
        if not parts:
            raise UserError(
                f'all {len(self.pixels)} images of {self.source} are of one colour: they have no '
                'frequencies. Name other images: --images FOLDER.'
            )
        return join(parts)


def load_images(
    cfg: Config,
    folder: str | None = None,
    split: str = 'val',
    most: int = 64,
    crop: int = 224,
) -> Images:
    """Load images of a config's dataset, or of a folder, by the config's test pipeline.

    Args:
        cfg: The config.
        folder: A folder, a file or a glob; None for the config's dataset.
        split: ``'val'`` or ``'train'``: which dataset of the config.
        most: How many images; evenly spread where there are more.
        crop: The longest side in pixels: what is larger is cut to its centre. Cutting, unlike
            resizing, leaves the frequencies where they are.

    Raises:
        UserError: There are none, or some cannot be read or are too small.
    """
    require(task_for(cfg).scope)
    init_default_scope(cfg.default_scope)
    pipeline = image_pipeline(cfg)
    make: Any
    if folder is not None:
        names = find_images(folder)
        source, count = folder, len(names)
        chosen = _spread(count, most)
        _check_files([names[i] for i in chosen], loader_of(pipeline))
        steps = NamesFile(Compose(pipeline))

        def make(number: int) -> dict:
            return steps(dict(img_path=names[number], img_id=0))
    else:
        check_config(cfg, (split,))
        datasets = []
        for settings, _ in datasets_of(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'):
            dataset = DATASETS.build({**settings, 'pipeline': pipeline})
            dataset.pipeline = NamesFile(dataset.pipeline)
            datasets.append(dataset)
        ends = np.cumsum([len(dataset) for dataset in datasets]).tolist() or [0]
        source, count = f'{split}_dataloader of the config', ends[-1]
        if not count:
            raise UserError(
                f'{source} has no images.\n  to fix it: name a folder of images: --images FOLDER.'
            )
        chosen = _spread(count, most)

        def make(number: int) -> dict:
            which = int(np.searchsorted(ends, number, side='right'))
            return datasets[which][number - (ends[which - 1] if which else 0)]

    pixels, files = [], []
    for number in chosen:
        packed = make(number)
        file = getattr(packed.get('data_samples'), 'img_path', None) or f'image {number}'
        pixels.append(_cut(packed['inputs'], crop, file))
        files.append(str(file))
    return Images(source, count, tuple(files), tuple(pixels))


def _spread(count: int, most: int) -> list[int]:
    """At most so many numbers below ``count``, evenly spread: datasets are sorted by class."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def _check_files(files: list[str], loader: str | None) -> None:
    if broken := broken_images(files, loader=loader, decode=True):
        lines = '\n  '.join(broken)
        raise UserError(
            f'images cannot be read:\n  {lines}\n'
            '  to fix it: fetch these files again, or take them out of the folder.'
        )


def _cut(image: Tensor, crop: int, file: Any) -> Tensor:
    """The centre of an image, its sides multiples of :data:`_MULTIPLE` and at most ``crop``."""
    height, width = (
        min(side, crop) // _MULTIPLE * _MULTIPLE for side in (image.shape[1], image.shape[2])
    )
    if not height or not width:
        raise UserError(
            f'{file} has {image.shape[1]} x {image.shape[2]} pixels behind the test pipeline; it '
            f'takes {_MULTIPLE} x {_MULTIPLE} at least.\n'
            '  to fix it: larger images, or a resizing step in the test pipeline.'
        )
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
