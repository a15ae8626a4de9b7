"""One image: shapes are arranged, rejected where they could not be annotated, then painted."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .outlines import CLASSES, FULL, UNIT, Points, area, fill, outline, place, polar
from .polygons import Loop, signed_area, trace
from .textures import draw, draw_field, neutral_colours, paint, shape_colours

MAX_SHAPES = 5
# Diameters in 1/128 of the image, a factor of four apart in about equal ratios.
DIAMETERS = (20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 71, 80)
MIN_VISIBLE_PERCENT = 25  # of the shape's own area, whether hidden by shapes or by the border
MIN_PART = 4  # pixels; a smaller part of a shape that was cut is of no use
_MAX_TRIES = 10_000

Mask: TypeAlias = NDArray[np.bool_]
Image: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """One shape in an image: `label` indexes `CLASSES`, `visible` (H, W) is what can be seen of it
    and `loops` its boundary, `hidden` the percentage that something or the border hides."""

    label: int
    diameter: int
    visible: Mask
    loops: list[Loop]
    hidden: int


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) and its shapes, from the hindmost to the foremost."""

    image: Image
    instances: list[Instance]


@dataclass(frozen=True)
class _Shape:
    label: int
    diameter: int
    centre: tuple[int, int]
    points: Points


def make_scene(rng: np.random.RandomState, size: int) -> Scene:
    """An image of 1 to `MAX_SHAPES` shapes on a textured ground, `size` pixels a side.

    Every shape that was drawn is annotated: an arrangement that leaves one with too little to be
    seen, or with a hole, which a polygon cannot express, is thrown away and drawn again.
    """
    count = draw(rng, 1, MAX_SHAPES + 1)
    for _ in range(_MAX_TRIES):
        shapes = _arrange(rng, size, count)
        covers = [fill(shape.points, size) for shape in shapes]
        instances = _annotate(shapes, covers, size)
        if instances is not None:
            break
    else:
        raise AssertionError(f'no arrangement of {count} shapes in {size} pixels')
    layers = [
        (cover, paint(rng, size, shape_colours(rng, shape.label)))
        for shape, cover in zip(shapes, covers, strict=True)
    ]
    return Scene(_compose(rng, size, layers), instances)


def make_card(rng: np.random.RandomState, size: int, label: int) -> Image:
    """An image (size, size, 3) of one shape for classification, a dull shard or two before it."""
    for _ in range(_MAX_TRIES):
        diameter = size * draw(rng, 50, 95) // 100
        reach = size * 16 // 100
        x, y = (size // 2 + draw(rng, -reach, reach + 1) for _ in range(2))
        points = _pose(rng, outline(label), (x, y), diameter)
        cover = fill(points, size)
        shards = [fill(_shard(rng, size), size) for _ in range(draw(rng, 0, 3))]
        visible = cover * 2 >= FULL
        for shard in shards:
            visible &= shard * 2 < FULL
        if visible.sum() * 100 >= 70 * area(points):
            break
    else:
        raise AssertionError(f'no card of a {CLASSES[label]} in {size} pixels')
    layers = [(cover, paint(rng, size, shape_colours(rng, label)))]
    layers += [(shard, paint(rng, size, neutral_colours(rng))) for shard in shards]
    return _compose(rng, size, layers)


def _arrange(rng: np.random.RandomState, size: int, count: int) -> list[_Shape]:
    shapes: list[_Shape] = []
    for _ in range(count):
        label = draw(rng, 0, len(CLASSES))
        diameter = size * DIAMETERS[draw(rng, 0, len(DIAMETERS))] // 128
        if shapes and draw(rng, 0, 2):
            # Beside an earlier shape, so that about every second one overlaps something.
            other = shapes[draw(rng, 0, len(shapes))]
            reach = (other.diameter + diameter) * draw(rng, 25, 46) // 100
            dx, dy = polar(reach, draw(rng, 0, 360))
            centre = (other.centre[0] + dx, other.centre[1] + dy)
        else:
            margin = diameter // 3  # the border may cut a shape
            centre = (draw(rng, margin, size - margin), draw(rng, margin, size - margin))
        shapes.append(_Shape(label, diameter, centre, _pose(rng, outline(label), centre, diameter)))
    return shapes


def _pose(
    rng: np.random.RandomState, points: Points, centre: tuple[int, int], diameter: int
) -> Points:
    return place(points, centre, diameter, draw(rng, 0, 360), stretch=draw(rng, 80, 101))


def _shard(rng: np.random.RandomState, size: int) -> Points:
    """An irregular quadrilateral, no class of ours, to stand in the way."""
    corners = [polar(UNIT * draw(rng, 50, 101) // 100, 90 * k + draw(rng, 0, 60)) for k in range(4)]
    centre = (draw(rng, 0, size), draw(rng, 0, size))
    return _pose(rng, np.array(corners, dtype=np.int64), centre, size * draw(rng, 20, 50) // 100)


def _annotate(
    shapes: list[_Shape], covers: list[NDArray[np.int64]], size: int
) -> list[Instance] | None:
    """What can be seen of each shape; None where that could not be written as polygons."""
    owner: NDArray[np.int64] = np.full((size, size), -1, dtype=np.int64)
    for index, cover in enumerate(covers):  # the later ones stand before the earlier ones
        owner[cover * 2 >= FULL] = index
    least = max(12, 32 * size * size // 128**2)
    instances = []
    for index, shape in enumerate(shapes):
        visible = owner == index
        seen, whole = int(visible.sum()), area(shape.points)
        if seen < least or seen * 100 < MIN_VISIBLE_PERCENT * whole:
            return None
        loops = trace(visible)
        if any(signed_area(loop) < MIN_PART for loop in loops):  # a hole's is negative
            return None
        hidden = max(0, 100 - 100 * seen // whole)
        instances.append(Instance(shape.label, shape.diameter, visible, loops, hidden))
    return instances


def _compose(
    rng: np.random.RandomState,
    size: int,
    layers: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Image:
    """Layers of (coverage, texture) over a dull ground, under uneven light, with sensor noise."""
    image = paint(rng, size, neutral_colours(rng))
    for cover, texture in layers:
        weight = cover[:, :, None]
        image = (image * (FULL - weight) + texture * weight + FULL // 2) // FULL
    ramp: NDArray[np.int64] = np.arange(size, dtype=np.int64) - size // 2
    x, y = ramp[None, :], ramp[:, None]
    slope_x, slope_y = draw(rng, -40, 41), draw(rng, -40, 41)
    light = (x * slope_x + y * slope_y) // size
    noise = draw_field(rng, -8, 9, size, size, 3)
    return np.clip(image + light[:, :, None] + noise, 0, 255).astype(np.uint8)
