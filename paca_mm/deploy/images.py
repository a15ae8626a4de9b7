"""From an image file to the input of a model, as the steps of a config say, without OpenMMLab.

Where OpenCV is installed, decoding and resizing are its own, as in mmcv. With Pillow alone, an image is
decoded by it, and what OpenCV would resize bilinearly is resized here: a pixel may differ by one
level of 255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paca_mm.errors import UserError
from paca_mm.type_names import type_name

Pixels = NDArray[np.uint8]

#: Steps that change nothing in an image, or nothing before a model reads it.
_IDLE = ('LoadAnnotations', 'PackInputs', 'PackSegInputs', 'PackDetInputs', 'Collect')
_KNOWN: dict[str, tuple[str, ...]] = {
    'LoadImageFromFile': ('imdecode_backend', 'color_type', 'to_float32', 'ignore_empty'),
    'Resize': (
        'scale',
        'scale_factor',
        'keep_ratio',
        'backend',
        'interpolation',
        'clip_object_border',
    ),
    'ResizeEdge': ('scale', 'edge', 'backend', 'interpolation'),
    'CenterCrop': ('crop_size', 'clip_object_border'),
}


@cache
def has(package: str) -> bool:
    """Whether a package can be imported; an OpenCV without its libraries cannot."""
    try:
        import_module(package)
    except ImportError:
        return False
    return True


def lacking(steps: Sequence[Mapping[str, Any]]) -> str:
    """What a config's steps ask for that is not here; ``''`` if nothing."""
    for step in steps:
        kind = type_name(step)
        if kind in _IDLE or kind.endswith('LoadAnnotations'):
            continue
        if kind not in _KNOWN:
            return f'the step {kind}'
        if odd := [key for key in step if key not in ('type', *_KNOWN[kind])]:
            return f'{kind}({odd[0]}=...)'
        if kind == 'LoadImageFromFile' and (
            step.get('imdecode_backend', 'cv2') not in ('cv2', 'pillow')
            or step.get('color_type', 'color') not in ('color', 'color_ignore_orientation')
        ):
            return f'{kind} as it is configured'
        if step.get('backend') not in (None, 'cv2', 'pillow'):
            return f'{kind}(backend={step["backend"]!r})'
    return ''


def decoded(path: str, steps: Sequence[Mapping[str, Any]] = ()) -> Pixels:
    """The pixels of a file, (H, W, 3), RGB."""
    load = next((s for s in steps if type_name(s) == 'LoadImageFromFile'), {})
    turns = load.get('color_type', 'color') == 'color'
    if load.get('imdecode_backend', 'cv2') == 'cv2' and has('cv2'):
        import cv2

        flags = cv2.IMREAD_COLOR if turns else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        with open(path, 'rb') as file:
            found: Any = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flags)
        return np.ascontiguousarray(found[..., ::-1])
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image) if turns else image
        if turned.mode == 'LA':  # mmcv lays it on a ground of this colour
            layer = turned.convert('RGBA')
            turned = Image.new('RGB', layer.size, (124, 117, 104))
            turned.paste(layer, mask=layer.split()[3])
        return np.asarray(turned.convert('RGB'))


def prepared(pixels: Pixels, steps: Sequence[Mapping[str, Any]]) -> Pixels:
    """An image (H, W, 3) as the steps of a config resize and cut it."""
    for step in steps:
        kind = type_name(step)
        height, width = pixels.shape[:2]
        if kind == 'Resize':
            size = _size(step, width, height)
        elif kind == 'ResizeEdge':
            size = _edge(step, width, height)
        elif kind == 'CenterCrop':
            pixels = _centre(pixels, step['crop_size'])
            continue
        else:
            continue
        pixels = resized(
            pixels, size, step.get('interpolation') or 'bilinear', step.get('backend') or 'cv2'
        )
    return pixels


def _size(step: Mapping[str, Any], width: int, height: int) -> tuple[int, int]:
    """Width and height that mmcv's ``Resize`` makes."""
    scale = step.get('scale')
    if scale is None:
        factor = step['scale_factor']
        pair = factor if isinstance(factor, (list, tuple)) else (factor, factor)
        scale = tuple(int(side * f + 0.5) for side, f in zip((width, height), pair, strict=True))
    sides = tuple(scale) if isinstance(scale, (list, tuple)) else (scale, scale)
    if not step.get('keep_ratio'):
        return int(sides[0]), int(sides[1])
    factor = min(max(sides) / max(width, height), min(sides) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def _edge(step: Mapping[str, Any], width: int, height: int) -> tuple[int, int]:
    """Width and height that mmpretrain's ``ResizeEdge`` makes."""
    edge, scale = step.get('edge', 'short'), step['scale']
    by_width = (
        edge == 'width'
        or (edge == 'short' and width < height)
        or (edge == 'long' and width > height)
    )
    if by_width:
        return scale, int(scale * height / width)
    return int(scale * width / height), scale


def _centre(pixels: Pixels, crop_size: int | Sequence[int]) -> Pixels:
    """What mmpretrain's ``CenterCrop`` leaves: sides that are smaller stay."""
    sides = crop_size if isinstance(crop_size, (list, tuple)) else (crop_size, crop_size)
    width, height = sides
    top = max(0, round((pixels.shape[0] - height) / 2))
    left = max(0, round((pixels.shape[1] - width) / 2))
    return pixels[top : top + height, left : left + width]


def resized(
    pixels: Pixels, size: tuple[int, int], interpolation: str = 'bilinear', backend: str = 'cv2'
) -> Pixels:
    """An image (H, W, 3) of another width and height.

    Raises:
        UserError: It takes OpenCV, or Pillow, which is not installed.
    """
    if size == (pixels.shape[1], pixels.shape[0]) and backend == 'cv2':
        return pixels
    if backend == 'pillow':
        if not has('PIL'):
            raise UserError('images of this model are resized by Pillow: pip install pillow')
        from PIL import Image

        way = {'bilinear': 'BILINEAR', 'bicubic': 'BICUBIC', 'nearest': 'NEAREST', 'box': 'BOX',
               'lanczos': 'LANCZOS', 'hamming': 'HAMMING'}[interpolation]  # fmt: skip
        # Pillow goes by channel, so the order of the channels is no matter.
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[way]))
    if has('cv2'):
        import cv2

        ways = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR,
                'bicubic': cv2.INTER_CUBIC, 'area': cv2.INTER_AREA,
                'lanczos': cv2.INTER_LANCZOS4}  # fmt: skip
        found: Any = cv2.resize(pixels, size, interpolation=ways[interpolation])
        return found
    if interpolation != 'bilinear':
        raise UserError(
            f'images of this model are resized by OpenCV ({interpolation}): '
            'pip install opencv-python-headless'
        )
    image = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    return (
        bilinear(image, (size[1], size[0]))[0]
        .round()
        .clip(0, 255)
        .astype(np.uint8)
        .transpose(1, 2, 0)
    )


def bilinear(
    image: NDArray[np.float32], size: Sequence[int], align_corners: bool = False
) -> NDArray[np.float32]:
    """(B, C, H, W) at another height and width, as ``torch.nn.functional.interpolate`` does it."""
    for axis, (old, new) in zip((2, 3), zip(image.shape[2:], size, strict=True), strict=True):
        if old == new:
            continue
        if align_corners:
            at = np.arange(new) * np.float32((old - 1) / (new - 1) if new > 1 else 0)
        else:
            at = np.maximum(
                (np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5, 0
            )
        low = np.minimum(at.astype(np.int64), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image
