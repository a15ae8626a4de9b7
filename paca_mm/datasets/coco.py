"""Looking into a COCO annotation file once: what it holds, and every fault that mmdet trips over.

What a fault means depends on what the file is used for, so it is counted here whatever the use, and
:func:`faults_of` is told the use.
"""

import gc
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

from paca_mm.cache import kept_of_file
from paca_mm.errors import UserError, some_of

from .faults import Fault, Offender, Tally

#: Of what is kept of a file. Raised when other things are looked for.
_VERSION = 1

#: A larger file is announced: it takes seconds.
_LARGE = 50_000_000

#: Uses of a file. Its boxes are read by a dataset; its masks too; a metric compares boxes with it, or
#: masks; a model is trained on it.
BOXES, MASKS, METRIC, METRIC_MASKS, TRAINED = 'boxes', 'masks', 'metric', 'metric masks', 'trained'


class CocoImage(NamedTuple):
    """An image of the file.

    Attributes:
        name: Its file, below the image folder.
        width: In pixels, as stated.
        height: In pixels, as stated.
        objects: How many annotations of it a detector can use.
    """

    name: str
    width: float
    height: float
    objects: int


@dataclass(frozen=True)
class CocoFile:
    """What a COCO annotation file holds.

    Attributes:
        path: The file.
        classes: The names of its categories, in its order.
        ids: Their ids.
        images: Its images.
        annotations: How many annotations it has; None without the list, as for a test set.
        usable: How many of them a detector can use.
        tally: The faults, by kind.
    """

    path: str
    classes: tuple[str, ...]
    ids: tuple[Any, ...]
    images: tuple[CocoImage, ...]
    annotations: int | None
    usable: int
    tally: Tally


def look_into(path: str, tell: Callable[[str], None] = lambda text: None) -> CocoFile:
    """Read a COCO annotation file. What is found is kept, so that the next run takes no time.

    Args:
        path: The file.
        tell: Is given a line about a large file, before it is read and after.

    Raises:
        UserError: It is no such file, or a torn one.
    """

    def make() -> dict[str, Any]:
        size = os.path.getsize(path)
        if size > _LARGE:
            tell(f'looking into {path} ({size / 1e6:.0f} MB): once, the result is kept')
        found = _look(path)
        if size > _LARGE:
            tell(f'{len(found["images"])} images and {found["annotations"]} annotations in it')
        return found

    found = kept_of_file(path, f'coco {_VERSION}', make)
    return CocoFile(
        path=path,
        classes=tuple(found['classes']),
        ids=tuple(found['ids']),
        images=tuple(CocoImage(*image) for image in found['images']),
        annotations=found['annotations'],
        usable=found['usable'],
        tally=Tally.of_dict(found['tally']),
    )


def _look(path: str) -> dict[str, Any]:
    with _without_gc():
        try:
            content = _parsed(path)
            lists = [content.get('images'), content.get('categories')]
            lists.append(content.get('annotations', []))
            for name, entries in zip(('images', 'categories', 'annotations'), lists, strict=True):
                if not isinstance(entries, list):
                    raise ValueError(f'it has no list of "{name}"')
                if not all(type(entry) is dict for entry in entries):
                    raise ValueError(f'"{name}" holds entries that are no objects')
        except (ValueError, AttributeError, RecursionError) as e:
            raise UserError(
                f'{path} is no COCO annotation file, or a torn one ({e}): it must be JSON with '
                'images, annotations and categories.'
            ) from e
        tally = Tally()
        images, categories, annotations = lists
        classes, ids = _categories(categories, tally)
        known = _images(images, tally)
        objects = _annotations(annotations, known, set(ids), tally)
    return {
        'classes': classes,
        'ids': ids,
        'images': [
            [image['name'], image['width'], image['height'], objects.get(key, 0)]
            for key, image in known.items()
        ],
        'annotations': len(annotations) if 'annotations' in content else None,
        'usable': sum(objects.values()),
        'tally': tally.as_dict(),
    }


def _parsed(path: str) -> Any:
    """The content of a JSON file; by orjson where that is installed, in half of the time.

    It refuses what JSON has no word for (NaN, Infinity) and Python's own reads: then that one does.
    """
    with open(path, 'rb') as file:
        content = file.read()
    try:
        import orjson

        return orjson.loads(content)
    except (ImportError, ValueError):
        return json.loads(content)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Millions of small objects that all stay: collecting garbage among them takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _categories(categories: Sequence[Mapping], tally: Tally) -> tuple[list[str], list[Any]]:
    """The names and ids of the categories."""
    classes: list[str] = []
    ids: list[Any] = []
    for n, category in enumerate(categories):
        name, key = category.get('name'), category.get('id')
        offender = Offender(f'category {key if key is not None else f"no. {n + 1}"} ({name})')
        if not isinstance(name, str) or not _is_id(key):
            tally.note('category-without-key', offender)
            continue
        if key in ids:
            tally.note('category-id-twice', offender)
        if name in classes:
            tally.note('category-name-twice', offender)
        classes.append(name)
        ids.append(key)
    return classes, ids


def _is_id(key: Any) -> bool:
    return isinstance(key, (int, float, str)) and not isinstance(key, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def _images(images: Sequence[Mapping], tally: Tally) -> dict[Any, dict[str, Any]]:
    """Name and size of the images by their ids."""
    known: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for n, image in enumerate(images):
        key, name = image.get('id'), image.get('file_name')
        if name is None and isinstance(url := image.get('coco_url'), str):
            name = '/'.join(url.split('/')[-2:])  # LVIS: folder and file of COCO's server
        offender = Offender(
            f'image {key if key is not None else f"no. {n + 1}"} ({name})',
            name if isinstance(name, str) else None,
        )
        if not _is_id(key):
            tally.note('image-without-id', offender)
            continue
        if not isinstance(name, str):
            tally.note('image-without-name', offender)
            continue
        if key in known:
            tally.note('image-id-twice', offender)
        if name in names:
            tally.note('image-name-twice', offender)
        names.add(name)
        width, height = image.get('width'), image.get('height')
        if width is None or height is None:
            tally.note('image-without-size', offender)
        elif not (_is_size(width) and _is_size(height)):
            tally.note('image-size', offender)
        usable = _is_size(width) and _is_size(height)
        known[key] = {
            'name': name,
            'width': width if usable else 0,
            'height': height if usable else 0,
        }
    return known


def _annotations(
    annotations: Sequence[Mapping], images: Mapping[Any, Mapping], ids: set, tally: Tally
) -> dict[Any, int]:
    """Count faults; returns how many annotations of each image a detector can use."""
    objects: dict[Any, int] = {}
    seen: set = set()
    for n, ann in enumerate(annotations):
        key, image_id, category = ann.get('id'), ann.get('image_id'), ann.get('category_id')
        image = images.get(image_id) if _is_id(image_id) else None
        note = partial(_note, tally, ann, n, image)
        if not _is_id(key):
            note('annotation-without-id')
        elif key in seen:
            note('annotation-id-twice')
        else:
            seen.add(key)
        if image is None:
            other = _is_id(image_id) and _other_type(image_id) in images
            kind = 'image-id-of-other-type' if other else 'unknown-image'
            note(kind, f'image_id={image_id!r}')
        known = _is_id(category) and category in ids
        if not known:
            other = _is_id(category) and _other_type(category) in ids
            kind = 'category-id-of-other-type' if other else 'unknown-category'
            note(kind, f'category_id={category!r}')
        boxed = _box(ann, image, note)
        _segmentation(ann, image, note)
        if 'iscrowd' not in ann:
            note('no-iscrowd')
        if boxed and known and image is not None and not ann.get('ignore'):
            objects[image_id] = objects.get(image_id, 0) + 1
    return objects


def _note(
    tally: Tally, ann: Mapping, n: int, image: Mapping | None, kind: str, detail: str = ''
) -> None:
    """Count an annotation, the n-th of the file, as one with a fault."""
    name, bbox = image['name'] if image else None, ann.get('bbox')
    words = f'annotation {ann.get("id", f"no. {n + 1}")}' + (f' ({name})' if name else '')
    box = tuple(bbox) if isinstance(bbox, list) and len(bbox) == 4 and _numbers(bbox) else None
    tally.note(kind, Offender(words + (f': {detail}' if detail else ''), name, box))


def _other_type(key: Any) -> Any:
    """The number that a text is, the text that a number is."""
    if not isinstance(key, str):
        return str(int(key)) if isinstance(key, int) or key.is_integer() else str(key)
    try:
        return int(key)
    except ValueError:
        return None


def _numbers(values: Any) -> bool:
    """Whether these are numbers, all finite."""
    try:
        return isfinite(sum(values))  # not finite as soon as one of them is not
    except (TypeError, OverflowError):
        return False


def _box(ann: Mapping, image: Mapping | None, note: Callable) -> bool:
    """Whether the box is one that mmdet keeps: of a size, and not outside its image."""
    box, area = ann.get('bbox'), ann.get('area')
    good = True
    if area is None:
        note('no-area')
        good = False
    elif not isinstance(area, (int, float)) or not isfinite(area):
        note('area-no-number', f'area={area!r}')
        good = False
    elif area <= 0:
        note('area-zero', f'area={area}')
        good = False
    if box is None:
        note('no-bbox')
        return False
    if not isinstance(box, list) or len(box) != 4 or not _numbers(box):
        note('bbox-no-numbers', f'bbox={box!r}'[:80])
        return False
    x, y, width, height = box
    if width < 1 or height < 1:
        note('bbox-negative' if min(width, height) < 0 else 'bbox-without-size', f'bbox={box}')
        return False
    right, bottom = (image['width'], image['height']) if image else (0, 0)
    if right and (x >= right or y >= bottom or x + width <= 0 or y + height <= 0):
        note('bbox-outside', f'bbox={box} of an image of {right} x {bottom}')
        return False
    return good


def _segmentation(ann: Mapping, image: Mapping | None, note: Callable) -> None:
    mask = ann.get('segmentation')
    if not mask:
        note('no-segmentation')
    elif type(mask) is list:
        for polygon in mask:
            if type(polygon) is not list:
                note('polygon-no-numbers')
                break
            if len(polygon) < 6:
                note('polygon-short', f'{len(polygon) // 2} points')
                break
            if not _numbers(polygon):
                note('polygon-no-numbers', 'not all finite numbers')
                break
            if len(polygon) % 2:
                note('polygon-odd', f'{len(polygon)} numbers')
                break
    elif type(mask) is dict:
        size, counts = mask.get('size'), mask.get('counts')
        if not isinstance(counts, (str, list)) or not isinstance(size, list) or len(size) != 2:
            note('rle', 'without counts or size')
        elif image is not None and image['width'] and size != [image['height'], image['width']]:
            note('rle', f'size={size}, of an image of [{image["height"]}, {image["width"]}]')
        elif isinstance(counts, list) and (
            not _numbers(counts) or sum(counts) != size[0] * size[1]
        ):
            note('rle', f'its counts do not add up to {size[0]} x {size[1]}')
    else:
        note('polygon-no-numbers', f'segmentation={mask!r}'[:60])


class _Kind(NamedTuple):
    """What a kind of fault is.

    Attributes:
        what: Said of the file; ``{n}`` is the count with its noun.
        noun: ``'annotation'``, ``'image'`` or ``'category'``.
        cure: What to do.
        fatal: The uses that it ruins.
        dropped: The uses in which the host leaves the offenders out.
    """

    what: str
    noun: str
    cure: str
    fatal: Collection[str] = ()
    dropped: Collection[str] = ()


_WRITE = 'write the file again with'
_NO_MASKS = (
    'annotate polygons or run-length codes. For boxes only: a detector without masks (Faster R-CNN: '
    "no mask_head, with_mask=False in LoadAnnotations, metric='bbox' in the evaluator)."
)
_POLYGONS = (
    f'{_WRITE} polygons of at least 3 points, [x1, y1, x2, y2, x3, y3, ...], in finite numbers.'
)
_KINDS = {
    'category-without-key': _Kind(
        'has {n} without a name or an id', 'category', f'{_WRITE} both.', [BOXES, METRIC]
    ),
    'category-id-twice': _Kind(
        'has {n} whose id another one has', 'category', f'{_WRITE} unique ids.', [BOXES, METRIC]
    ),
    'category-name-twice': _Kind(
        'has {n} whose name another one has: mmdet would number both',
        'category',
        'join them, or give them names of their own.',
        [BOXES, METRIC],
    ),
    'image-without-id': _Kind('has {n} without an id', 'image', f'{_WRITE} it.', [BOXES, METRIC]),
    'image-without-name': _Kind('has {n} without file_name', 'image', f'{_WRITE} it.', [BOXES]),
    'image-without-size': _Kind(
        'has {n} without width and height', 'image', f'{_WRITE} both, in pixels.', [BOXES]
    ),
    'image-size': _Kind(
        'has {n} whose width or height is no positive number: all their boxes count as outside',
        'image',
        f'{_WRITE} the sizes of the images, in pixels.',
        [BOXES],
    ),
    'image-id-twice': _Kind(
        'has {n} whose id another one has: the annotations of both would go to the last one',
        'image',
        f'{_WRITE} unique ids.',
        [BOXES, METRIC],
    ),
    'image-name-twice': _Kind(
        'has {n} whose file another one names: it counts twice',
        'image',
        'join them, with the annotations of both under one id.',
        (),
        [BOXES, METRIC],
    ),
    'annotation-without-id': _Kind(
        'has {n} without an id', 'annotation', f'{_WRITE} unique ids.', [BOXES, METRIC]
    ),
    'annotation-id-twice': _Kind(
        'has {n} whose id another one has',
        'annotation',
        f'{_WRITE} unique ids (1, 2, 3, ... over all images).',
        [BOXES, METRIC],
    ),
    'image-id-of-other-type': _Kind(
        'has {n} whose image_id is text where the image has a number, or the other way round: they '
        'belong to no image',
        'annotation',
        f'{_WRITE} numbers in both places, without quotes.',
        [BOXES, METRIC],
    ),
    'category-id-of-other-type': _Kind(
        'has {n} whose category_id is text where the category has a number, or the other way round: '
        'they belong to no class',
        'annotation',
        f'{_WRITE} numbers in both places, without quotes.',
        [BOXES, METRIC],
    ),
    'unknown-image': _Kind(
        'has {n} of images that it does not list',
        'annotation',
        'list the images, or remove the annotations.',
        (),
        [BOXES, METRIC],
    ),
    'unknown-category': _Kind(
        'has {n} of categories that it does not list',
        'annotation',
        'list the categories, or remove the annotations.',
        (),
        [BOXES, METRIC],
    ),
    'no-bbox': _Kind(
        'has {n} without bbox', 'annotation', f'{_WRITE} [x, y, width, height].', [BOXES, METRIC]
    ),
    'bbox-no-numbers': _Kind(
        'has {n} whose bbox is not four finite numbers',
        'annotation',
        f'{_WRITE} [x, y, width, height], in pixels.',
        [BOXES, METRIC],
    ),
    'bbox-without-size': _Kind(
        'has {n} whose bbox is less than a pixel wide or high',
        'annotation',
        'remove them, or correct the boxes: [x, y, width, height].',
        (),
        [BOXES, METRIC],
    ),
    'bbox-negative': _Kind(
        'has {n} whose bbox has a negative width or height',
        'annotation',
        'correct the boxes: [x, y, width, height], where x and y are the upper left corner.',
        (),
        [BOXES, METRIC],
    ),
    'bbox-outside': _Kind(
        'has {n} whose bbox lies outside the image',
        'annotation',
        'correct the boxes: [x, y, width, height] in pixels; or the width and height of the image.',
        (),
        [BOXES, METRIC],
    ),
    'no-area': _Kind(
        'has {n} without area',
        'annotation',
        f"{_WRITE} it: the mask's area in pixels, or width times height of the bbox.",
        [BOXES, METRIC],
    ),
    'area-no-number': _Kind(
        'has {n} whose area is no finite number',
        'annotation',
        f"{_WRITE} the mask's area in pixels, or width times height of the bbox.",
        [BOXES, METRIC],
    ),
    'area-zero': _Kind(
        'has {n} whose area is 0 or less',
        'annotation',
        f"{_WRITE} the mask's area in pixels, or width times height of the bbox.",
        (),
        [BOXES, METRIC],
    ),
    'no-iscrowd': _Kind(
        'has {n} without iscrowd, which the evaluation needs',
        'annotation',
        f'{_WRITE} "iscrowd": 0 (1 where an annotation is of a crowd).',
        [METRIC],
    ),
    'no-segmentation': _Kind(
        'has {n} without segmentation, which masks are made of',
        'annotation',
        _NO_MASKS,
        [MASKS, METRIC_MASKS],
    ),
    'polygon-short': _Kind(
        'has {n} with a polygon of fewer than 3 points',
        'annotation',
        _POLYGONS,
        [METRIC_MASKS],
        [MASKS],
    ),
    'polygon-odd': _Kind(
        'has {n} with a polygon of an odd count of numbers',
        'annotation',
        _POLYGONS,
        (),
        [MASKS, METRIC_MASKS],
    ),
    'polygon-no-numbers': _Kind(
        'has {n} whose polygons are not lists of finite numbers',
        'annotation',
        _POLYGONS,
        [MASKS, METRIC_MASKS],
    ),
    'rle': _Kind(
        'has {n} whose run-length code is not one of its image',
        'annotation',
        f'{_WRITE} {{"size": [height of the image, width], "counts": ...}}.',
        [MASKS, METRIC_MASKS],
    ),
}
_PLURALS = {'category': 'categories', 'image': 'images', 'annotation': 'annotations'}


def faults_of(file: CocoFile, uses: Collection[str], folder: str = '') -> list[Fault]:
    """The faults of a file that matter for what it is used for.

    Args:
        file: The file.
        uses: Of :data:`BOXES`, :data:`MASKS`, :data:`METRIC`, :data:`METRIC_MASKS`, :data:`TRAINED`.
        folder: Where its images are.
    """
    tally = file.tally.with_images_in(folder)
    found = []
    for kind, (what, noun, cure, fatal, dropped) in _KINDS.items():
        count = tally.counts.get(kind, 0)
        ruined = any(use in uses for use in fatal)
        if count and (ruined or any(use in uses for use in dropped)):
            total = {'image': len(file.images), 'annotation': file.annotations}.get(noun)
            n = f'{count} {noun if count == 1 else _PLURALS[noun]}'
            n += f' (of {total})' if total and total > count else ''
            what = what.format(n=n) + ('' if ruined else ' (left out in training)')
            found.append(
                Fault(kind, file.path, what, cure, count, tuple(tally.first[kind]), fatal=ruined)
            )
    if TRAINED in uses and not file.usable and not any(fault.fatal for fault in found):
        found.append(
            Fault(
                'nothing-to-train-on',
                file.path,
                f'has {file.annotations or 0} annotations and {len(file.images)} images, and no box '
                'that could be trained on.',
                'a file with annotations of the images that it lists, or the faults above.',
            )
        )
    return found


def order_fault(file: CocoFile, classes: Sequence[str], place: str) -> Fault | None:
    """Classes in another order than the file's.

    mmdet numbers classes in the order of the file, and calls number i by the i-th name of
    ``metainfo``.

    Args:
        file: The file.
        classes: The names that are expected, each of which the file has.
        place: What the classes are called in the message.
    """
    order = [name for name in file.classes if name in classes]
    wrong = [(mine, its) for mine, its in zip(classes, order, strict=False) if mine != its]
    if not wrong:
        return None
    return Fault(
        'class-order',
        file.path,
        f'lists its classes in the order {some_of(order)}, but {place} in the order '
        f'{some_of(classes)}: mmdet numbers them as the file does, so {wrong[0][1]!r} would be called '
        f'{wrong[0][0]!r}.',
        f'metainfo=dict(classes={tuple(order)!r}) in each dataset, where each annotation file has '
        'this order; otherwise write the files with one order.',
        count=len(wrong),
    )
