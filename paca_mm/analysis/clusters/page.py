"""The page to click on: one file, which needs no network, with the maps of every block inside."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from .colours import MADE_OF, READ, distinct, table
from .seen import Seen, View

TEMPLATE = Path(__file__).with_name('page.html')

#: Bytes that an image may take of the page, its own pixels included, as they stand in the file.
PER_IMAGE = 4_400_000

#: Bytes that a page may take in all; many images share them.
IN_ALL = 24_000_000

#: The longer sides, in cells, that a map is brought down to until it fits, and the clusters that are
#: to fit at least; the rest of them are one number.
_SIDES, _LEAST = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8), 32

#: A byte names the cluster of a cell; its last number is "another".
_MOST_CLUSTERS = 255

#: The longer side of the image on the page, in pixels.
_IMAGE_SIDE = 896


@dataclass(frozen=True)
class _Group:
    """The blocks of a stage, with the clusters that the page has of them."""

    views: Sequence[View]
    kept: list[int]


def page(images: Sequence[Seen], title: str, words: str) -> str:
    """The page of some images.

    Args:
        images: What :func:`.seen.see` returned of each.
        title: Of the page.
        words: A line below it: the config, the checkpoint.
    """
    share = min(PER_IMAGE, IN_ALL // len(images))
    parts: list[str] = []
    entries = []
    for number, seen in enumerate(images):
        entry, content = _packed(seen, share)
        entries.append(entry)
        packed = base64.b64encode(content).decode()
        parts.append(f'<script type="text/plain" id="maps{number}">{packed}</script>')
    most = max(len(view.assignment) for seen in images for view in _all_views(seen))
    settings = dict(
        images=entries,
        colours={kind: _hex(table(name)) for kind, name in (('made', MADE_OF), ('read', READ))},
        distinct=_hex(distinct(most)),
    )
    values = {
        'title': escape(title),
        'words': escape(words),
        'settings': json.dumps(settings, separators=(',', ':')).replace('<', '\\u003c'),
        'maps': '\n'.join(parts),
    }
    template = TEMPLATE.read_text(encoding='utf-8')
    return re.sub(r'\{\{(\w+)\}\}', lambda mark: values[mark[1]], template)


def _all_views(seen: Seen) -> list[View]:
    return [*seen.views, *([seen.classes] if seen.classes else [])]


def _hex(colours: NDArray[np.uint8]) -> str:
    return colours.tobytes().hex()


def _packed(seen: Seen, share: int) -> tuple[dict[str, Any], bytes]:
    """What the page is told of an image, and the bytes of its maps."""
    picture = _jpeg(seen.pixels)
    room = (share - len(picture)) * 3 // 4 - 20_000
    groups, side = _fitting(seen, max(room, 50_000))
    content = io.BytesIO()
    told = []
    for group in groups:
        blocks: list[dict[str, Any]] = []
        before: View | None = None
        for view in group.views:
            small = _smaller(view, side)
            kept = small.assignment[group.kept]
            if before is None or view.assignment is not before.assignment:
                most = kept.max((1, 2)).clip(1e-12)
                made = dict(at=content.tell(), most=[_digits(m) for m in most])
                content.write(_bytes_of(kept / most[:, None, None]))
                belongs = dict(at=content.tell())
                content.write(_numbers(small.assignment.argmax(0), group.kept))
            before = view
            reads = small.attention[..., group.kept]
            largest = float(reads.max())
            blocks.append(
                dict(
                    title=view.title,
                    made=made,
                    belongs=belongs,
                    heads=len(reads),
                    most=_digits(largest),
                    at=content.tell(),
                    mass=[_digits(m) for m in view.mass()[group.kept]],
                )
            )
            content.write(_bytes_of(reads / max(largest, 1e-12)))
        first = group.views[0]
        rows, columns = _smaller(first, side).grid
        told.append(
            dict(
                title='classes' if first.stage < 0 else f'stage {first.stage + 1}',
                rows=rows,
                columns=columns,
                cell=first.cell * _factor(first, side),
                clusters=[[k, first.name(k)] for k in group.kept],
                total=len(first.assignment),
                blocks=blocks,
            )
        )
    entry = dict(
        name=seen.name, height=seen.size[0], width=seen.size[1], picture=picture, groups=told
    )
    return entry, content.getvalue()


def _fitting(seen: Seen, room: int) -> tuple[list[_Group], int]:
    """The clusters of each stage and the cells that fit: those that are read most, as many as fit."""
    stages = [[view for view in seen.views if view.stage == stage] for stage in seen.stages()]
    if seen.classes:
        stages.append([seen.classes])
    most = min(max(len(views[0].assignment) for views in stages), _MOST_CLUSTERS)
    for side in _SIDES:
        for number in sorted({most, *range(min(_LEAST, most), most, 8)}, reverse=True):
            if sum(_size(views, side, number) for views in stages) <= room:
                return [_Group(views, _kept(views, number)) for views in stages], side
    number = min(16, most)
    return [_Group(views, _kept(views, number)) for views in stages], _SIDES[-1]


def _kept(views: Sequence[View], number: int) -> list[int]:
    mass = np.mean([view.mass() for view in views], 0)
    return np.argsort(-mass, kind='stable')[:number].tolist()


def _size(views: Sequence[View], side: int, number: int) -> int:
    """The bytes of a stage's maps."""
    factor = _factor(views[0], side)
    rows, columns = (-(-n // factor) for n in views[0].grid)
    number = min(number, len(views[0].assignment))
    made = sum(
        before is None or view.assignment is not before.assignment
        for before, view in zip([None, *views[:-1]], views, strict=True)
    )
    heads = sum(len(view.attention) for view in views)
    return rows * columns * (number * (made + heads) + made)


def _factor(view: View, side: int) -> int:
    return -(-max(view.grid) // side)


def _smaller(view: View, side: int) -> View:
    """The same in larger cells, where it has more than ``side``."""
    factor = _factor(view, side)
    if factor == 1:
        return view
    assignment = torch.from_numpy(view.assignment)[None]
    attention = torch.from_numpy(view.attention).permute(0, 3, 1, 2)
    return View(
        view.stage,
        view.block,
        view.depth,
        F.avg_pool2d(assignment, factor, ceil_mode=True, divisor_override=1)[0].numpy(),
        F.avg_pool2d(attention, factor, ceil_mode=True).permute(0, 2, 3, 1).numpy(),
        view.cell * factor,
        view.names,
    )


def _bytes_of(values: NDArray) -> bytes:
    """Numbers from 0 to 1, the small ones in finer steps: the square root of each as a byte."""
    return np.round(255 * np.sqrt(values.clip(0, 1))).astype(np.uint8).tobytes()


def _numbers(cells: NDArray, kept: Sequence[int]) -> bytes:
    """Cells of clusters as bytes: the place of each among those that are kept; 255 is another."""
    places = np.full(int(cells.max()) + 1, 255, np.uint8)
    for place, cluster in enumerate(kept):
        if cluster < len(places):
            places[cluster] = place
    return places[cells].tobytes()


def _digits(value: float) -> float:
    return float(f'{float(value):.4g}')


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    """The image as a data URL, no larger than it is shown."""
    image = Image.fromarray(pixels)
    scale = min(1.0, _IMAGE_SIDE / max(image.size))
    if scale < 1:
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, 'JPEG', quality=88)
    return f'data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}'
