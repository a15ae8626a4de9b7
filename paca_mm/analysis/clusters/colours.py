"""Colours that a reader can trust: even steps look even, and neighbours in a list look different."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Of what clusters are made of, and of what is read: both perceptually uniform, and in order in grey.
MADE_OF, READ = 'inferno', 'viridis'

#: How much of a picture is the map; the rest is the grey image below it.
COVER = 0.78

Pixels = NDArray[np.uint8]


@cache
def table(name: str) -> Pixels:
    """A colour map of matplotlib as (256, 3)."""
    import matplotlib

    colours = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return np.round(colours * 255).astype(np.uint8)


def distinct(count: int) -> Pixels:
    """``count`` colours of which those with near numbers are far apart, (count, 3).

    Hues go round by the golden angle in OKLCh, where equal steps look equal; lightness takes turns,
    so that neighbours differ in grey, too.
    """
    i = np.arange(count)
    lightness = np.array([0.72, 0.5, 0.85])[i % 3]
    hue = np.radians(25 + i * 137.508)
    chroma = np.array([0.15, 0.13, 0.11])[i % 3]
    return _from_oklch(lightness, chroma, hue)


def _from_oklch(lightness: NDArray, chroma: NDArray, hue: NDArray) -> Pixels:
    """Björn Ottosson's OKLab, to sRGB; what lies outside is cut off."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        -1,
    ).clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(curved * 255).astype(np.uint8)


def grey(pixels: Pixels) -> Pixels:
    """An image without its colours, (H, W, 3)."""
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    return np.repeat(np.round(luminance).astype(np.uint8)[..., None], 3, 2)


def spread(cells: NDArray, cell: float, size: Sequence[int]) -> NDArray:
    """Cells (rows, columns, ...) over the pixels of an image: (H, W, ...), in squares."""
    rows = np.minimum((np.arange(size[0]) / cell).astype(int), cells.shape[0] - 1)
    columns = np.minimum((np.arange(size[1]) / cell).astype(int), cells.shape[1] - 1)
    return cells[rows[:, None], columns[None]]


def heat(pixels: Pixels, cells: NDArray, cell: float, colours: str, most: float = 0.0) -> Pixels:
    """A map over the grey image.

    Args:
        pixels: The image, (H, W, 3).
        cells: (rows, columns), 0 or more.
        cell: The side of a cell in pixels.
        colours: A colour map of matplotlib.
        most: What the last colour means; by default the largest of the cells.
    """
    most = most or float(cells.max()) or 1.0
    steps = np.round(255 * (cells / most).clip(0, 1)).astype(int)
    over = table(colours)[spread(steps, cell, pixels.shape)]
    return _over(pixels, over)


def parts(pixels: Pixels, cells: NDArray, cell: float, colours: Pixels) -> Pixels:
    """Cells of numbers (rows, columns), each in the colour of its number, over the grey image."""
    return _over(pixels, colours[spread(cells, cell, pixels.shape)])


def _over(pixels: Pixels, over: Pixels) -> Pixels:
    return np.round(grey(pixels) * (1 - COVER) + over * COVER).astype(np.uint8)
