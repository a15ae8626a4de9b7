"""Semantic segmentation, by mmsegmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config

from paca_mm.datasets.images import images_in
from paca_mm.datasets.labels import Labelling, check_masks
from paca_mm.datasets.shapes import SEG_CLASSES
from paca_mm.errors import UserError, some_of

from .. import data_checks
from ..data_checks import (
    check_images,
    check_levels,
    check_num_classes,
    classes_of,
    heads_of,
    is_dataset,
    made_lazily,
    path_in,
)
from ..drawing import Look, Pixels, class_map
from .base import Task, named


class Segmentation(Task):
    """A class for every pixel."""

    name = 'seg'
    scope = 'mmseg'
    title = 'segmentation'
    image_size = (512, 512)
    shapes_config = 'configs/seg/paca_head_paca_shapes.py'
    shapes_classes = SEG_CLASSES
    headline = 'mIoU'
    demo_goal = 60.0

    def check_dataset(self, cfg: Config, dataset: dict, place: str) -> None:
        check_levels(cfg)
        prefix = dataset.get('data_prefix') or {}
        images = path_in(dataset, prefix.get('img_path', ''))
        masks = path_in(dataset, prefix.get('seg_map_path', ''))
        self.require_path(images, 'image folder', f'{place}.data_prefix.img_path', dataset)
        self.require_path(masks, 'mask folder', f'{place}.data_prefix.seg_map_path', dataset)
        classes = classes_of(dataset)
        if classes is not None:
            check_num_classes(cfg, classes, place)
        num_classes = _tell_classes(cfg, dataset, classes)
        made = _made(dataset, place, classes)
        if made is None:  # a path of the user's own, from files to classes
            check_images(images_in(images), dataset, place)
            return
        files = made.load_data_list()
        if not files:
            raise UserError(
                f'{place.partition(".")[0]} has no images: none in {images} ends in '
                f'{made.img_suffix!r}.\n  to fix it: img_suffix=... in the dataset (and '
                f'seg_map_suffix, {made.seg_map_suffix!r} now, for the masks).'
            )
        check_images([file['img_path'] for file in files], dataset, place)
        if num_classes:
            check_masks(
                [(f['img_path'], f['seg_map_path']) for f in files if f.get('seg_map_path')],
                Labelling(num_classes, made.reduce_zero_label, made.label_map, made.ignore_index),
                data_checks.SAMPLE_MASKS,
                every_class=place.startswith('train'),
            )

    def drawn(self, pixels: Pixels, sample: Any, look: Look, score_thr: float) -> Pixels:
        return class_map(pixels, sample.pred_sem_seg.data[0].numpy(), look)

    def drawn_truth(self, pixels: Pixels, sample: Any, look: Look) -> Pixels | None:
        truth = sample.get('gt_sem_seg')
        return None if truth is None else class_map(pixels, truth.data[0].numpy(), look)

    def record(self, sample: Any, classes: Sequence[str], score_thr: float) -> dict[str, Any]:
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        total = int(counts.sum())
        rows = sorted(zip(counts.tolist(), labels.tolist(), strict=True), reverse=True)
        return {'classes': [{**named(k, classes), 'share': n / total} for n, k in rows]}

    def toy_sample(self, model: Any, meta: Mapping[str, Any]) -> Any:
        """A map of random classes."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        classes = torch.randint(model.decode_head.num_classes, (1, *meta['img_shape']))
        return SegDataSample(metainfo=dict(meta), gt_sem_seg=PixelData(data=classes))


def _made(dataset: dict, place: str, classes: Sequence[str] | None) -> Any | None:
    """The dataset as mmseg makes it, without its masks; None if it is of a class of the user's own."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return None  # building the model says what is missing

    if not is_dataset(dataset, BaseSegDataset):
        return None
    try:
        return made_lazily(dataset)
    except ValueError as e:
        if 'METAINFO' not in str(e):
            raise
        raise UserError(
            f'the classes of {place.partition(".")[0]} ({some_of(classes or ())}) are not all among '
            f'those that {dataset["type"]} is known for.\n'
            "  to fix it, for classes of your own: type='BaseSegDataset' in each dataset."
        ) from e


def _tell_classes(cfg: Config, dataset: dict, classes: Sequence[str] | None) -> int:
    """How many classes the masks have, which ``paca_mm.CheckLabels`` is told too.

    0 if that is not known, or the pipeline has a path of the user's own from files to classes.
    """
    steps = list(dataset.get('pipeline') or [])
    if not any(step.get('type') in ('LoadAnnotations', 'mmseg.LoadAnnotations') for step in steps):
        return 0
    most = max((head.num_classes for head in heads_of(cfg)), default=0)
    num_classes = len(classes) if classes else most
    for step in steps:
        if num_classes and step['type'] == 'paca_mm.CheckLabels':
            step.setdefault('num_classes', num_classes)
    return num_classes
