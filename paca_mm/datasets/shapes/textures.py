"""Colours and patterns, in integers.

Hue helps to tell the classes apart but does not decide. The colour circle has two bands for each
class; a class draws from its own band three times out of five, and else from the band on either
side, which it shares with a neighbour. Whoever sees only the hue is right four times out of five;
the rest is outline.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .outlines import CLASSES, ONE, cos, sin

HUES = 6 * 256  # the colour circle
# Neighbours on the circle share a hue, so they must differ clearly in outline.
_AROUND_THE_CIRCLE = ('disc', 'star', 'square', 'crescent', 'cross', 'triangle')
_BAND = HUES // (2 * len(CLASSES))
_JITTER = _BAND // 4  # bands stay apart by half of their width

Field: TypeAlias = NDArray[np.int64]
Colour: TypeAlias = NDArray[np.int64]  # (3,), red green blue, 0..255


def draw(rng: np.random.RandomState, low: int, high: int) -> int:
    """An integer in [low, high). The type is fixed, as the default one depends on the platform."""
    return int(rng.randint(low, high, dtype=np.int64))


def draw_field(rng: np.random.RandomState, low: int, high: int, *shape: int) -> Field:
    """As `draw`, an array of `shape`."""
    return rng.randint(low, high, size=shape, dtype=np.int64)


def hue_bands(label: int) -> tuple[int, int, int]:
    """The three hues (0 <= hue < HUES) at the middle of the bands that a class draws from."""
    own = 2 * _AROUND_THE_CIRCLE.index(CLASSES[label])
    below, middle, above = ((own + step) * _BAND % HUES for step in (-1, 0, 1))
    return below, middle, above


def rgb(hue: int, saturation: int, value: int) -> Colour:
    """HSV to RGB; `hue` in [0, HUES), `saturation` and `value` in [0, 255]."""
    sector, part = divmod(hue % HUES, 256)
    low = value * (255 - saturation) // 255
    falling = value * (65025 - saturation * part) // 65025
    rising = value * (65025 - saturation * (255 - part)) // 65025
    return np.array(
        (
            (value, rising, low),
            (falling, value, low),
            (low, value, rising),
            (low, falling, value),
            (rising, low, value),
            (value, low, falling),
        )[sector],
        dtype=np.int64,
    )


def shape_colours(rng: np.random.RandomState, label: int) -> tuple[Colour, Colour]:
    """Two shades of one of the class's hues, saturated."""
    below, own, above = hue_bands(label)
    hue = (below, own, own, own, above)[draw(rng, 0, 5)] + draw(rng, -_JITTER, _JITTER + 1)
    saturation, value = draw(rng, 150, 250), draw(rng, 170, 250)
    darker = value * draw(rng, 50, 80) // 100
    return rgb(hue, saturation, value), rgb(hue, saturation * 9 // 10, darker)


def neutral_colours(rng: np.random.RandomState) -> tuple[Colour, Colour]:
    """Two dull colours of any hue, for whatever is not a shape."""
    first, second = (
        rgb(draw(rng, 0, HUES), draw(rng, 0, 70), draw(rng, 60, 200)) for _ in range(2)
    )
    # At most 3/4 of their difference: the pattern stays below the shapes' own contrast.
    return first, first + (second - first) * 3 // 4


def paint(rng: np.random.RandomState, size: int, colours: tuple[Colour, Colour]) -> Field:
    """A texture (size, size, 3), 0..255: one of five patterns mixing two colours."""
    first, second = colours
    mix = _pattern(rng, size)[:, :, None]
    return first + (second - first) * mix // 256


def _pattern(rng: np.random.RandomState, size: int) -> Field:
    """Mixing weights (size, size), 0..256."""
    kind = draw(rng, 0, 5)
    degrees, period = draw(rng, 0, 360), draw(rng, 4, 10)
    ramp: Field = np.arange(size, dtype=np.int64)
    x, y = ramp[None, :], ramp[:, None]
    along = (x * cos(degrees) + y * sin(degrees)) // ONE
    across = (y * cos(degrees) - x * sin(degrees)) // ONE
    if kind == 0:  # stripes
        return (along // period & 1) * 256
    if kind == 1:  # checks
        return (along // period + across // period & 1) * 256
    if kind == 2:  # gradient
        return (along - along.min()) * 256 // (along.max() - along.min())
    if kind == 3:  # grain
        return draw_field(rng, 0, 257, size, size)
    return _blotches(rng, size, period)


def _blotches(rng: np.random.RandomState, size: int, period: int) -> Field:
    """Value noise: random weights on a grid `period` pixels apart, bilinear in between."""
    knots = size // period + 2
    grid = draw_field(rng, 0, 257, knots, knots)
    cell, part = np.divmod(np.arange(size, dtype=np.int64), period)
    rows = grid[cell] * (period - part)[:, None] + grid[cell + 1] * part[:, None]
    both = rows[:, cell] * (period - part) + rows[:, cell + 1] * part
    return both // (period * period)
