"""The dataset on disk: the same shapes as COCO instances, ADE-style masks and ImageFolder.

- ``annotations/instances_{train,val}.json``: polygons of what is visible of each shape
- ``{train,val}/000001.png``: images; image ids count from 1 in each split
- ``masks/{train,val}/000001.png``: labels, 1 for background, 2 and up for the shapes
- ``imagefolder/{train,val}/<class>/``: one shape an image, half the side
- ``README.txt``, ``shapes.json``: for people, for programs
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paca_mm.errors import UserError

from .outlines import CLASSES
from .scenes import Scene, make_card, make_scene

# Masks are read with `reduce_zero_label=True`, as ADE20K does: 0 means "no label" there and
# occurs nowhere here, the background is a class of its own, so mIoU counts it.
SEG_CLASSES = ('background', *CLASSES)

RECIPE = 1  # raise it with every change of a pixel or an annotation
FORMAT = 'paca_mm shapes'
SPLITS = ('train', 'val')
FILES = (
    'README.txt',
    'annotations/instances_train.json',
    'annotations/instances_val.json',
    'shapes.json',
)


@dataclass(frozen=True)
class ShapesSpec:
    """What decides the content of a dataset, besides the recipe.

    Args:
        seed: 0 <= seed < 2**32.
        num_train: images to train on. Each class gets half as many images in the ImageFolder.
        num_val: images to validate on; likewise.
        size: side of the images in pixels, 64 to 1024. ImageFolder images have half of it.

    Image i of a split is the same whatever the counts.

    Raises:
        UserError: if a value is not an integer in its range.
    """

    seed: int = 0
    num_train: int = 320
    num_val: int = 64
    size: int = 128

    def __post_init__(self) -> None:
        for name, low, high in (
            ('seed', 0, 2**32 - 1),
            ('num_train', 1, 999_999),
            ('num_val', 1, 999_999),
            ('size', 64, 1024),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f'{name} of the shapes dataset must be an integer from {low} to {high}, '
                    f'not {value!r}.'
                )

    def images(self, split: str) -> int:
        """Images in a split."""
        return self.num_train if split == 'train' else self.num_val

    def per_class(self, split: str) -> int:
        """ImageFolder images of each class in a split."""
        return max(1, self.images(split) // 2)

    def folders(self) -> dict[str, int]:
        """Every folder of images and how many it holds; they are numbered from 000001."""
        counts = {}
        for split in SPLITS:
            counts[split] = counts[f'masks/{split}'] = self.images(split)
            for name in CLASSES:
                counts[f'imagefolder/{split}/{name}'] = self.per_class(split)
        return counts


def image_name(number: int) -> str:
    """File name of image `number`, which is also its COCO image id."""
    return f'{number:06d}.png'


def write_dataset(folder: Path, spec: ShapesSpec) -> None:
    """Write a complete dataset into an existing, empty folder; `shapes.json` comes last."""
    for name in ('annotations', *spec.folders()):
        (folder / name).mkdir(parents=True)
    instances = {split: _write_split(folder, spec, split) for split in SPLITS}
    for split in SPLITS:
        for label, name in enumerate(CLASSES):
            for number in range(1, spec.per_class(split) + 1):
                rng = _rng(spec, split, label + 1, number)
                card = make_card(rng, spec.size // 2, label)
                path = folder / 'imagefolder' / split / name / image_name(number)
                Image.fromarray(card).save(path)
    info: dict[str, Any] = {'format': FORMAT, 'recipe': RECIPE, **asdict(spec)}
    info |= {'classes': CLASSES, 'seg_classes': SEG_CLASSES, 'instances': instances}
    info |= {'folders': spec.folders(), 'files': FILES}
    (folder / 'README.txt').write_bytes(_readme(spec, instances).encode('ascii'))
    _write_json(folder / 'shapes.json', info, indent=1)


def class_mask(scene: Scene) -> NDArray[np.uint8]:
    """Labels (H, W) of a scene: 1 + the index of `SEG_CLASSES`."""
    labels = np.ones(scene.image.shape[:2], dtype=np.uint8)
    for instance in scene.instances:
        labels[instance.visible] = instance.label + 2
    return labels


def _rng(spec: ShapesSpec, split: str, kind: int, number: int) -> np.random.RandomState:
    # One generator an image: `RandomState` and its seeding are frozen by NumPy's policy (NEP 19).
    return np.random.RandomState([spec.seed, SPLITS.index(split), kind, number])


def _write_split(folder: Path, spec: ShapesSpec, split: str) -> int:
    """Images, masks and instances of one split; returns the number of instances."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, spec.images(split) + 1):
        scene = make_scene(_rng(spec, split, 0, number), spec.size)
        name = image_name(number)
        Image.fromarray(scene.image).save(folder / split / name)
        Image.fromarray(class_mask(scene)).save(folder / 'masks' / split / name)
        images.append({'id': number, 'file_name': name, 'width': spec.size, 'height': spec.size})
        for annotation in _annotations(scene):
            identity = {'id': len(annotations) + 1, 'image_id': number}
            annotations.append(identity | annotation)
    coco = {
        'info': {'description': FORMAT, 'version': str(RECIPE), 'seed': spec.seed},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': index, 'name': name, 'supercategory': 'shape'}
            for index, name in enumerate(CLASSES, 1)
        ],
    }
    _write_json(folder / 'annotations' / f'instances_{split}.json', coco)
    return len(annotations)


def _annotations(scene: Scene) -> Iterator[dict[str, Any]]:
    for instance in scene.instances:
        ys, xs = np.nonzero(instance.visible)
        x, y = int(xs.min()), int(ys.min())
        yield {
            'category_id': instance.label + 1,
            'iscrowd': 0,
            'area': len(xs),
            'bbox': [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
            # Floats, though all are whole: mmdet scales polygons in place, and an integer array
            # would cut the result off.
            'segmentation': [
                [float(value) for corner in loop for value in corner] for loop in instance.loops
            ],
        }


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    separators = (',', ':') if indent is None else (',', ': ')
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=True)
    path.write_bytes(text.encode('ascii') + b'\n')


def _readme(spec: ShapesSpec, instances: dict[str, int]) -> str:
    labels = '\n'.join(
        f'    {label}  {name}{"  (category " + str(label - 1) + ")" if label > 1 else ""}'
        for label, name in enumerate(SEG_CLASSES, 1)
    )
    return f"""\
The shapes dataset of paca_mm, recipe {RECIPE}, seed {spec.seed}.

Textured, overlapping shapes, {spec.size} x {spec.size} pixels. Made by tools/make_shapes.py, with
the same pixels on every machine; shapes.json says with which parameters.

train/, val/                     {spec.num_train} and {spec.num_val} images
annotations/instances_*.json     COCO: {instances['train']} and {instances['val']} instances.
                                 Polygons of the visible part on the cracks between pixels;
                                 they decode to the masks to the pixel.
masks/train/, masks/val/         label of each pixel, read with reduce_zero_label=True
                                 (0, "no label", does not occur)
imagefolder/{{train,val}}/<class>/ {spec.per_class('train')} and {spec.per_class('val')} \
images a class, {spec.size // 2} x {spec.size // 2}, one shape each

Labels in masks/, and category ids in annotations/ (an ImageFolder reader numbers the classes from
0 in the same order):
{labels}
"""
