"""Predictions drawn so that they can be read on any image: of 96 pixels, of 12 million.

The hosts' visualizers write letters of one size, paint the masks of a class in random colours and stop
at a class without one. Here letters and lines scale with the image, a small image is enlarged first, and
a class has one colour in boxes, masks and maps.
"""

import colorsys
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paca_mm.files import replacing, writing

#: A smaller image is enlarged, by a whole number, until its longer side is about as long.
LEAST_SIDE = 640

#: Height of the letters in the square root of the image's area, and at least in pixels.
LETTERS, LEAST_LETTERS = 0.02, 13

#: How much of a mask's colour covers the image.
COVER = 0.45

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]


class Look(NamedTuple):
    """The names and the colours of classes; a class beyond them is its number, in a colour made up.

    Attributes:
        classes: Their names.
        palette: Their colours, RGB from 0 to 255.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()

    @classmethod
    def of(cls, meta: dict[str, Any]) -> 'Look':
        """By the ``classes`` and the ``palette`` of a dataset, in whatever form they came."""
        return cls(class_names(meta.get('classes')), _colours(meta.get('palette')))

    def name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)

    def colour(self, label: int) -> Colour:
        return self.palette[label] if label < len(self.palette) else made_up(label)


def class_names(classes: Any) -> tuple[str, ...]:
    """The names of classes: several, one that is no sequence, or a text file with one a line."""
    if isinstance(classes, str):
        if os.path.isfile(classes):
            with open(classes, encoding='utf-8') as f:
                return tuple(line.strip() for line in f if line.strip())
        return (classes,)
    return tuple(map(str, classes or ()))


def _colours(palette: Any) -> tuple[Colour, ...]:
    """Those of a list of triples; words such as ``'random'``, and what is no colour, give none."""
    try:
        colours: Any = np.asarray(palette)
        if colours.ndim != 2 or colours.shape[1] != 3:
            return ()
        return tuple((int(r), int(g), int(b)) for r, g, b in colours.clip(0, 255))
    except (TypeError, ValueError):
        return ()


def made_up(label: int) -> Colour:
    """A colour for a class: hues that are far apart, one after the other."""
    hue = 0.02 + label * 0.618034  # the golden ratio leaves no two near each other
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, (0.85, 0.6)[label // 7 % 2], 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def instances(
    pixels: Pixels,
    boxes: NDArray,
    labels: Sequence[int],
    look: Look,
    scores: Sequence[float] | None = None,
    masks: NDArray | None = None,
) -> Pixels:
    """Objects: their masks, boxes and names.

    Args:
        pixels: The image, (H, W, 3), RGB.
        boxes: (N, 4): x1, y1, x2, y2 in pixels.
        labels: N classes.
        look: Their names and colours.
        scores: N, written behind the names.
        masks: (N, H, W), true where an object is.
    """
    canvas = _Canvas(pixels)
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-sizes, kind='stable').tolist()  # the small ones on top
    if masks is not None:
        for i in order:
            canvas.mask(masks[i], look.colour(labels[i]))
    for i in order:
        canvas.box(boxes[i].tolist(), look.colour(labels[i]))
    # The surest object has its name where it wants it.
    for i in order if scores is None else np.argsort(-np.asarray(scores), kind='stable').tolist():
        name = look.name(labels[i])
        words = name if scores is None else f'{name} {scores[i]:.2f}'
        canvas.name_box(words, boxes[i].tolist(), look.colour(labels[i]))
    return canvas.pixels()


def class_map(pixels: Pixels, labels: NDArray, look: Look) -> Pixels:
    """A class for every pixel: colours, and a name in the middle of every class that has room for it.

    Args:
        pixels: The image, (H, W, 3), RGB.
        labels: (H, W); 255 is no class.
        look: Their names and colours.
    """
    canvas = _Canvas(pixels)
    found, counts = np.unique(labels, return_counts=True)
    known = [(int(n), int(k)) for k, n in zip(found, counts, strict=True) if k != 255]
    for _, label in known:
        canvas.mask(labels == label, look.colour(label), outline=False)
    for _, label in sorted(known, reverse=True):
        canvas.name_area(look.name(label), labels == label, look.colour(label))
    return canvas.pixels()


def lines(pixels: Pixels, words: Sequence[str]) -> Pixels:
    """Lines of text below the image, which covers none of it."""
    return _Canvas(pixels).with_lines(words)


def save(drawing: Pixels, file: str | os.PathLike, option: str = '') -> None:
    """Write a drawing, in the format that its name ends in; it appears complete or not at all.

    Raises:
        CannotWrite: The system refuses it; ``option`` of the command names another place.
    """
    path = Path(file)
    _, content = cv2.imencode(path.suffix, np.ascontiguousarray(drawing[..., ::-1]))  # from BGR
    with writing(path, option):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, option, flushed=False) as part:
        part.write_bytes(content.tobytes())


def beside(left: Pixels, right: Pixels) -> Pixels:
    """Two drawings of an image side by side, a white line between them."""
    height = max(left.shape[0], right.shape[0])
    filled = [np.pad(x, ((0, height - x.shape[0]), (0, 0), (0, 0))) for x in (left, right)]
    gap = np.full((height, max(2, height // 100), 3), 255, np.uint8)
    return np.concatenate([filled[0], gap, filled[1]], axis=1)


_larger: ContextVar[float] = ContextVar('_larger', default=1.0)


@contextmanager
def larger_letters(factor: float) -> Iterator[None]:
    """Words that are ``factor`` times as large, for drawings that are going to be shown smaller."""
    before = _larger.set(factor)
    try:
        yield
    finally:
        _larger.reset(before)


class _Canvas:
    """An image that is drawn on, in its own coordinates."""

    def __init__(self, pixels: Pixels) -> None:
        height, width = pixels.shape[:2]
        self.factor = max(1, round(LEAST_SIDE / max(height, width)))
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        if self.factor > 1:
            size = (width * self.factor, height * self.factor)
            image = image.resize(size, Image.Resampling.BICUBIC)
        letters = max(LEAST_LETTERS, LETTERS * (image.width * image.height) ** 0.5)
        self.letters = round(letters * _larger.get())
        self.line = max(2, self.letters // 7)
        self._draw_on(image)
        self._taken: list[tuple[int, int, int, int]] = []  # where names are

    def _draw_on(self, image: Image.Image) -> None:
        self.image, self.draw = image, ImageDraw.Draw(image)

    def pixels(self) -> Pixels:
        return np.asarray(self.image)

    def mask(self, mask: NDArray, colour: Colour, outline: bool = True) -> None:
        """Colour what is true in a mask (H, W), and draw a line around it."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return
        top, left = int(rows[0]), int(columns[0])
        part = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1], np.uint8)
        large = part.repeat(self.factor, 0).repeat(self.factor, 1)
        edge = self.line  # the line may lie outside of the mask
        large = np.pad(large, edge)
        where = (left * self.factor - edge, top * self.factor - edge)
        alpha = large * round(COVER * 255)
        self.image.paste(colour, where, Image.fromarray(alpha))
        if outline:
            contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            drawn = np.zeros_like(large)
            cv2.drawContours(drawn, contours, -1, 255, max(1, self.line // 2))
            self.image.paste(colour, where, Image.fromarray(drawn))

    def box(self, box: Sequence[float], colour: Colour) -> None:
        x1, y1, x2, y2 = (round(v * self.factor) for v in box)
        self.draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=self.line)

    def name_box(self, words: str, box: Sequence[float], colour: Colour) -> None:
        """Write above a box, or where else it covers least."""
        width, height = self._size(words)
        x1, y1, x2, y2 = (round(v * self.factor) for v in box)
        places = [
            (x1, y1 - height),
            (x1, y2),
            (x2 - width, y1 - height),
            (x2 - width, y2),
            (x1, y1),
            (x1, y2 - height),
        ]
        self._write(words, places, colour)

    def name_area(self, words: str, mask: NDArray, colour: Colour) -> None:
        """Write where the area is widest, if it is wide enough for the words."""
        edged = np.pad(mask.astype(np.uint8), 1)  # the edge of the image ends an area too
        depth = cv2.distanceTransform(edged, cv2.DIST_L2, 3)
        _, widest, _, (x, y) = cv2.minMaxLoc(depth)
        width, height = self._size(words)
        if 2 * widest * self.factor < height:
            return
        centre = ((x - 1) * self.factor, (y - 1) * self.factor)
        self._write(words, [(centre[0] - width // 2, centre[1] - height // 2)], colour)

    def with_lines(self, words: Sequence[str]) -> Pixels:
        _, height = self._size('Ag')
        image = Image.new('RGB', (self.image.width, self.image.height + height * len(words)))
        image.paste(self.image)
        below = self.image.height
        self._draw_on(image)
        for i, line in enumerate(words):
            self._text(self._cut(line), (0, below + i * height), (255, 255, 255))
        return self.pixels()

    def _size(self, words: str) -> tuple[int, int]:
        """Width and height of words with a little space around."""
        return round(_font(self.letters).getlength(words)) + self.letters // 2, round(
            self.letters * 1.35
        )

    def _cut(self, words: str) -> str:
        """As much of a line as the image is wide."""
        if self._size(words)[0] <= self.image.width:
            return words
        while words and self._size(f'{words}...')[0] > self.image.width:
            words = words[:-1]
        return f'{words}...'

    def _write(self, words: str, places: Iterable[tuple[int, int]], colour: Colour) -> None:
        """Write on a ground of a colour, at the first place inside the image that is free."""
        width, height = self._size(words)
        best, least = None, None
        for x, y in places:
            inside = (
                min(max(x, 0), max(self.image.width - width, 0)),
                min(max(y, 0), max(self.image.height - height, 0)),
            )
            moved = abs(inside[1] - y) * width  # onto the object
            covered = moved + sum(
                _overlap((*inside, inside[0] + width, inside[1] + height), other)
                for other in self._taken
            )
            if least is None or covered < least:
                best, least = inside, covered
        assert best is not None
        ground = (*best, best[0] + width, best[1] + height)
        self._taken.append(ground)
        self.draw.rectangle(ground, fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        self._text(words, best, (0, 0, 0) if bright else (255, 255, 255))

    def _text(self, words: str, place: tuple[int, int], colour: Colour) -> None:
        x, y = place
        middle = y + round(self.letters * 1.35) // 2
        font = _font(self.letters)
        self.draw.text((x + self.letters // 4, middle), words, colour, font, anchor='lm')


def _overlap(a: Sequence[int], b: Sequence[int]) -> int:
    """The area that two rectangles share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


@cache
def _font(size: int) -> Any:
    """Matplotlib's own, which knows the letters of most alphabets; every host needs matplotlib."""
    import matplotlib

    file = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(file, size)
