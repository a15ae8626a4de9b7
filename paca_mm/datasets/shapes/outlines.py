"""The shape classes as polygons, and filling a polygon, all in integer arithmetic.

Floating point appears once, in `_TABLE`, whose entries are rounded to integers and stay far from
ties, so that no machine's `cos` can change them. Everything after is exact.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# In alphabetical order, because an ImageFolder reader numbers its classes so: category k of the
# COCO files, label k of the masks and class k - 1 of the ImageFolder are then the same shape.
CLASSES = ('crescent', 'cross', 'disc', 'square', 'star', 'triangle')

TURN = 360  # angles are whole degrees
ONE = 1 << 14  # 1.0 of the sine table
UNIT = 1 << 10  # the radius of an outline's circumscribed circle
SUB = 64  # positions within a sample are 1/64
FINE = 2  # samples per pixel along each axis; a pixel's coverage is 0..4
FULL = FINE * FINE

_TABLE = tuple(round(ONE * math.cos(2 * math.pi * k / TURN)) for k in range(TURN))

Points: TypeAlias = NDArray[np.int64]  # (V, 2), x then y, y pointing down


def cos(degrees: int) -> int:
    """Cosine of whole degrees, times `ONE`."""
    return _TABLE[degrees % TURN]


def sin(degrees: int) -> int:
    """Sine of whole degrees, times `ONE`."""
    return _TABLE[(degrees - 90) % TURN]


def polar(radius: int, degrees: int, x: int = 0) -> tuple[int, int]:
    """The point at `radius` (in 1/UNIT) and angle `degrees` about (`x`, 0)."""
    return x + radius * cos(degrees) // ONE, radius * sin(degrees) // ONE


def _crescent() -> list[tuple[int, int]]:
    # A disc's arc from tip to tip, and back along a smaller circle through the same two tips, which
    # stand at 50 degrees on the large circle and at 75 on the small one.
    inner = UNIT * sin(50) // sin(75)
    middle = UNIT * cos(50) // ONE - inner * cos(75) // ONE
    outer_arc = [polar(UNIT, a) for a in range(50, 311, 5)]
    inner_arc = [polar(inner, a, middle) for a in range(280, 79, -5)]
    return outer_arc + inner_arc


def _cross() -> list[tuple[int, int]]:
    arm, half = 972, 322  # the corners of an arm's end lie on the circle of radius UNIT
    corner = [(half, -arm), (half, -half), (arm, -half)]
    turned = []
    for _ in range(4):
        turned += corner
        corner = [(-y, x) for x, y in corner]
    return turned


_OUTLINES: dict[str, list[tuple[int, int]]] = {
    'crescent': _crescent(),
    'cross': _cross(),
    'disc': [polar(UNIT, a) for a in range(0, TURN, 5)],
    'square': [polar(UNIT, a) for a in range(45, TURN, 90)],
    'star': [polar(UNIT if a % 72 == 0 else UNIT * 9 // 20, a) for a in range(0, TURN, 36)],
    'triangle': [polar(UNIT, a) for a in range(0, TURN, 120)],
}


def outline(label: int) -> Points:
    """The outline of class `label` (an index of `CLASSES`), radius `UNIT`, centred on (0, 0)."""
    return np.array(_OUTLINES[CLASSES[label]], dtype=np.int64)


def place(
    points: Points, centre: tuple[int, int], diameter: int, degrees: int, stretch: int = 100
) -> Points:
    """Scale, squeeze, turn and move an outline.

    Args:
        points: (V, 2) in 1/UNIT of the radius.
        centre: x and y in pixels.
        diameter: of the circumscribed circle, in pixels.
        degrees: rotation.
        stretch: height in percent of the width, before the rotation.

    Returns:
        (V, 2) in 1/SUB of a sample (FINE samples a pixel).
    """
    x, y = points[:, 0], points[:, 1] * stretch // 100
    turned = np.stack([x * cos(degrees) - y * sin(degrees), x * sin(degrees) + y * cos(degrees)], 1)
    scaled = turned * (diameter * FINE * SUB) // (2 * UNIT * ONE)
    return scaled + np.array(centre, dtype=np.int64) * (FINE * SUB)


def area(points: Points) -> int:
    """Area in pixels of a placed outline, whether it lies in the image or not (rounded down)."""
    x, y = points[:, 0], points[:, 1]
    doubled = int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return abs(doubled) // (2 * (FINE * SUB) ** 2)


def fill(points: Points, size: int) -> NDArray[np.int64]:
    """Coverage (size, size) of each pixel by a placed outline: 0 outside to `FULL` inside.

    A sample belongs to the outline by the even-odd rule at its centre. Every edge marks, in each
    row of samples that it crosses, the first sample to its right; the running parity of the marks
    along the row is the inside.
    """
    side = size * FINE
    start, end = points, np.roll(points, -1, axis=0)
    upwards = (start[:, 1] > end[:, 1])[:, None]
    start, end = np.where(upwards, end, start), np.where(upwards, start, end)
    flat = start[:, 1] == end[:, 1]  # a level edge crosses no row
    (x0, y0), (x1, y1) = start[~flat].T[:, :, None], end[~flat].T[:, :, None]  # (E, 1) each

    rows: NDArray[np.int64] = np.arange(side, dtype=np.int64)
    row_y = rows[None, :] * SUB + SUB // 2
    crosses = (y0 <= row_y) & (row_y < y1)  # (E, side)
    x = x0 + (row_y - y0) * (x1 - x0) // (y1 - y0)
    column = np.clip((x + SUB // 2 - 1) // SUB, 0, side)  # ceil((x - SUB/2) / SUB)

    marks: NDArray[np.int64] = np.zeros((side, side + 1), dtype=np.int64)
    edge, row = np.nonzero(crosses)
    np.add.at(marks, (row, column[edge, row]), 1)
    inside = np.cumsum(marks, axis=1)[:, :side] & 1
    return inside.reshape(size, FINE, size, FINE).sum(axis=(1, 3))
