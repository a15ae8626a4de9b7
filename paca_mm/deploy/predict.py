"""Predictions of many images into one folder, as ``paca-mm infer`` makes them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError, some_of
from paca_mm.files import distinct_stems, make_folder, replacing
from paca_mm.type_names import type_name

from .images import has
from .runtime import Exported


def find_images(*names: str) -> list[str]:
    """See :func:`paca_mm.datasets.images.find_images`; of files, the files, where there is no Pillow."""
    if has('PIL'):
        from paca_mm.datasets.images import find_images as find

        return find(*names)
    for name in names:
        if not os.path.isfile(name):
            raise UserError(
                f'there is no image {name!r}; a folder or a glob takes Pillow: pip install pillow'
            )
    return [*names]


def can_draw() -> bool:
    """Whether what draws is installed: OpenCV, Pillow and the font of matplotlib."""
    return all(has(name) for name in ('cv2', 'PIL', 'matplotlib'))


def predict_all(
    model: Exported, images: list[str], out_dir: str, drawing: bool
) -> Iterator[dict[str, Any]]:
    """Predict images one by one into ``out_dir``: ``predictions.json`` and, if wanted, ``NAME.png``.

    Yields:
        Each record as it is done; see :func:`paca_mm.engine.predict.predict_all`.

    Raises:
        UserError: A drawing would take the place of an image, or the file is of another kind of model.
    """
    out = Path(out_dir)
    drawings = drawings_of(images, out) if drawing else [''] * len(images)
    make_folder(out, '--out')
    records: list[dict[str, Any]] = []
    store(records, out)
    for image, drawn in zip(images, drawings, strict=True):
        if fault := _fault(model, image, decode=False):
            yield {'picture': image, 'fault': fault}
            continue
        try:
            prediction = model.predict(image)
        except UserError:
            raise
        except Exception:
            if not (fault := _fault(model, image, decode=True)):
                raise
            yield {'picture': image, 'fault': fault}
            continue
        record = {'picture': image, **model.record(prediction)}
        if drawn:
            _draw(model, image, prediction, record, drawn)
            record['drawn'] = drawn
        records.append(record)
        store(records, out)
        yield record


def _fault(model: Exported, image: str, decode: bool) -> str | None:
    if not has('PIL'):
        return None if os.path.getsize(image) else f'the image {os.path.abspath(image)} is empty.'
    from paca_mm.datasets.images import fault_of

    steps = model.meta.pipeline or ()
    load = next((s for s in steps if type_name(s) == 'LoadImageFromFile'), {})
    loader = load.get('imdecode_backend', 'cv2')
    fault = fault_of(image, decode, loader if has('cv2') else 'pillow')
    return f'the image {os.path.abspath(image)} {fault}.' if fault else None


def _draw(model: Exported, image: str, prediction: Any, record: dict[str, Any], file: str) -> None:
    from paca_mm.engine.drawing import Look, class_map, lines, save

    pixels = model.pixels(image)
    if model.meta.task == 'cls':
        drawing = lines(pixels, [f'{x["class"]} {x["score"]:.2f}' for x in record['top']])
    else:
        look = Look.of(dict(classes=model.meta.classes, palette=model.meta.palette))
        drawing = class_map(pixels, prediction, look)
    save(drawing, file, '--out')


def drawings_of(images: list[str], out: Path) -> list[str]:
    """Where each image is drawn.

    Raises:
        UserError: A drawing would take the place of an image.
    """
    files = [str(out / f'{name}.png') for name in distinct_stems(images)]
    own = {os.path.realpath(image) for image in images}
    if lost := [file for file in files if os.path.realpath(file) in own]:
        raise UserError(
            f'the drawings would be written over the images ({some_of(lost, 3)}).\n'
            '  to fix it: --out another folder.'
        )
    return files


def store(records: list[dict[str, Any]], out: Path) -> None:
    """Write ``predictions.json``, complete or not at all."""
    with replacing(out / 'predictions.json', '--out') as part:
        part.write_text(json.dumps(records, indent=1))
