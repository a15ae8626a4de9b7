"""From a mask to COCO polygons that decode to exactly that mask.

The polygons follow the cracks between pixels: pixel (x, y) covers [x, x + 1) x [y, y + 1), so every
corner is a whole number. pycocotools samples a polygon at pixel centres, which lie half a pixel
from any crack, hence nothing is left to rounding: areas, boxes and masks agree to the pixel.

COCO's run lengths would need none of this. But users have polygons, and mmdet treats them in its own
way (it scales, flips and crops their corners), so they are what the demo and the tests must train on.
"""

import numpy as np
from numpy.typing import NDArray

# Clockwise on the screen: the mask lies to the right of every step.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))

Loop = list[tuple[int, int]]


def trace(mask: NDArray[np.bool_]) -> list[Loop]:
    """The boundaries of a mask (H, W) as closed loops of corners (x, y), straight runs merged.

    Parts are 4-connected: two pixels that touch by a corner alone are two loops, or one loop that
    touches itself there. Around a hole the loop runs counter-clockwise (see `signed_area`).
    """
    cracks = _cracks(mask)
    loops = []
    while cracks:
        start = min(cracks)
        x, y, heading = start
        loop: Loop = []
        while True:
            cracks.discard((x, y, heading))
            x, y = x + _STEPS[heading][0], y + _STEPS[heading][1]
            # Where two parts touch by a corner, turning right stays on the same pixel.
            for turned in ((heading + 1) % 4, heading, (heading - 1) % 4):
                if (x, y, turned) in cracks or (x, y, turned) == start:
                    break
            if turned != heading:
                loop.append((x, y))
            heading = turned
            if (x, y, heading) == start:
                break
        loops.append(loop)
    return loops


def signed_area(loop: Loop) -> int:
    """Pixels within a loop of `trace`; negative if it goes around a hole, which COCO polygons
    cannot express."""
    following = loop[1:] + loop[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, following, strict=True)) // 2


def _cracks(mask: NDArray[np.bool_]) -> set[tuple[int, int, int]]:
    """Every pixel side between mask and non-mask: where it starts, and its heading."""
    padded = np.pad(mask, 1)
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    cracks: set[tuple[int, int, int]] = set()
    for heading, (beyond, dx, dy) in enumerate(
        ((above, 0, 0), (right, 1, 0), (below, 1, 1), (left, 0, 1))
    ):
        ys, xs = np.nonzero(mask & ~beyond)
        cracks.update(
            (x + dx, y + dy, heading) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)
        )
    return cracks
