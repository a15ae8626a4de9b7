"""Small datasets as people bring them, with one thing wrong, and configs that read them."""

import json

import numpy as np
from PIL import Image, ImageDraw

from paca_mm.engine.config import load_config

CLASSES = ('red box', 'blue disc')


def coco(root, spoil=lambda content, split: None, classes=CLASSES):
    """A COCO dataset of two classes, with gaps in the ids: 4 images to train on and 2 to validate.

    Args:
        root: Its folder.
        spoil: Changes the content of an annotation file, in place.
        classes: The names of the categories.
    """
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for i in range(1, count + 1):
            width, height = (96, 64) if i % 2 else (64, 96)
            image = Image.new('RGB', (width, height), (90, 120, 90))
            images.append(dict(id=i, file_name=f'{i}.png', width=width, height=height))
            for k, category in enumerate((3, 7)):
                x, y = int(rng.integers(0, width - 30)), int(rng.integers(0, height - 30))
                corners = [x, y, x + 24, y, x + 24, y + 24, x, y + 24]
                ImageDraw.Draw(image).rectangle(
                    [x, y, x + 24, y + 24], fill=((220, 30, 30), (30, 30, 220))[k]
                )
                annotations.append(
                    dict(
                        id=2 * i + k,
                        image_id=i,
                        category_id=category,
                        bbox=[x, y, 24, 24],
                        area=576,
                        iscrowd=0,
                        segmentation=[corners],
                    )
                )
            image.save(root / split / f'{i}.png')
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=i, name=n) for i, n in zip((3, 7), classes, strict=True)],
        )
        spoil(content, split)
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


def coco_config(root, classes=CLASSES, **options):
    """The config of the embedded dataset with another dataset in its place."""
    cfg = load_config('configs/det/mask_rcnn_paca_shapes.py')
    for phase in ('train', 'val', 'test'):
        split = 'train' if phase == 'train' else 'val'
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset.data_root = str(root)
        dataset.ann_file = f'{split}.json'
        dataset.data_prefix = dict(img=split)
        dataset.metainfo = dict(classes=classes)
        cfg[f'{phase}_dataloader'].update(num_workers=0, persistent_workers=False, batch_size=1)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{root}/val.json'
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = len(classes) if isinstance(classes, tuple) else 2
    cfg.merge_from_dict(options)
    return cfg


def voc(root, from_coco):
    """The same as VOC's XML files."""
    base = root / 'VOC2007'
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (base / folder).mkdir(parents=True)
    for split in ('train', 'val'):
        content = json.loads((from_coco / f'{split}.json').read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        stems = []
        for image in content['images']:
            stem = f'{split}{image["id"]}'
            stems.append(stem)
            Image.open(from_coco / split / image['file_name']).save(base / f'JPEGImages/{stem}.jpg')
            objects = ''
            for ann in content['annotations']:
                if ann['image_id'] == image['id']:
                    x, y, width, height = ann['bbox']
                    objects += (
                        f'<object><name>{names[ann["category_id"]]}</name><difficult>0</difficult>'
                        f'<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>'
                        f'<ymax>{y + height}</ymax></bndbox></object>'
                    )
            size = f'<width>{image["width"]}</width><height>{image["height"]}</height>'
            (base / f'Annotations/{stem}.xml').write_text(
                f'<annotation><size>{size}<depth>3</depth></size>{objects}</annotation>'
            )
        (base / f'ImageSets/Main/{split}.txt').write_text('\n'.join(stems) + '\n')
    return root


def masks(root, count=4, name='{}.jpg'):
    """A segmentation dataset of three classes: ``train`` and ``val``, each with ``masks``.

    Args:
        root: Its folder.
        count: Images to train on; half as many to validate.
        name: Of image number i, or what makes it.
    """
    rng = np.random.default_rng(0)
    for split, n in (('train', count), ('val', count // 2)):
        (root / split).mkdir(parents=True)
        (root / 'masks' / split).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)
            numbers = np.zeros((64, 96), np.uint8)
            for k in (1, 2):
                y, x = rng.integers(0, 40), rng.integers(0, 70)
                pixels[y : y + 20, x : x + 20, k] = 250
                numbers[y : y + 20, x : x + 20] = k
            file = root / split / (name(i) if callable(name) else name.format(i))
            Image.fromarray(pixels).save(file, format='JPEG', quality=95)
            Image.fromarray(numbers).save(root / 'masks' / split / f'{file.stem}.png')
    return root


def masks_config(root, **options):
    """The config of the embedded dataset with another dataset of three classes in its place."""
    cfg = load_config('configs/seg/paca_head_paca_shapes.py')
    for phase in ('train', 'val', 'test'):
        split = 'train' if phase == 'train' else 'val'
        loader = cfg[f'{phase}_dataloader']
        loader.dataset.data_prefix = dict(img_path=split, seg_map_path=f'masks/{split}')
        loader.dataset.update(
            type='BaseSegDataset',
            data_root=str(root),
            img_suffix='.jpg',
            seg_map_suffix='.png',
            reduce_zero_label=False,
        )
        loader.dataset.metainfo = dict(classes=('ground', 'box', 'disc'))
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.model.decode_head.num_classes = 3
    cfg.merge_from_dict(options)
    return cfg
