"""Semantic segmentation, by mmsegmentation."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from numpy.typing import NDArray

from paca_mm.datasets.checks import check_masks, check_present
from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import images_in
from paca_mm.datasets.labels import Labelling
from paca_mm.datasets.shapes import SEG_CLASSES
from paca_mm.errors import UserError, some_of

from ..data_checks import (
    Head,
    check_images,
    check_levels,
    check_num_classes,
    classes_of,
    datasets_of,
    heads_of,
    is_dataset,
    is_remote,
    made_lazily,
    path_in,
)
from ..drawing import Look, Pixels, class_map
from ..walk import type_name
from . import seg_data
from .base import FLIPS, Task, named, views

#: The sizes of an image's views, as multiples of the one that is tested without augmentation.
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


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

    def heads(self, model: Any) -> list[Head]:
        """Not an auxiliary head that makes labels of its own, of boundaries say."""
        return [
            head
            for head in heads_of(model)
            if not head.place.startswith(('backbone', 'neck'))
            and not (head.place.startswith('auxiliary_head') and _has_own_labels(head.node))
        ]

    def complete_dataset(self, cfg: Config, dataset: dict) -> None:
        """Tell ``paca_mm.CheckLabels`` the number of classes and what stands for "no label"."""
        num_classes = self._num_classes(cfg, dataset)
        for step in dataset.get('pipeline') or []:
            if num_classes and type_name(step) == 'CheckLabels':
                step.setdefault('num_classes', num_classes)
                step.setdefault('ignore_index', dataset.get('ignore_index', 255))

    def check_dataset(
        self, cfg: Config, dataset: dict, place: str, glance: Glance
    ) -> Iterator[Fault]:
        check_levels(cfg)
        if is_remote(dataset):
            return
        prefix = dataset.get('data_prefix') or {}
        images = path_in(dataset, prefix.get('img_path', ''))
        masks = path_in(dataset, prefix.get('seg_map_path') or '')
        self.require_path(images, 'image folder', f'{place}.data_prefix.img_path', dataset)
        if prefix.get('seg_map_path') is not None:
            self.require_path(masks, 'mask folder', f'{place}.data_prefix.seg_map_path', dataset)
        if dataset.get('ann_file'):
            listed = path_in(dataset, dataset['ann_file'])
            self.require_path(listed, 'list of images', f'{place}.ann_file', dataset)
        classes = classes_of(dataset, place)
        if classes is not None:
            check_num_classes(self.heads(cfg.model), classes, place)
        made = _made(dataset, place, classes)
        if made is None:  # a path of the user's own, from files to classes
            yield from check_images(images_in(images), dataset, place, glance)
            return
        samples = made.load_data_list()
        files = [sample['img_path'] for sample in samples]
        if not files:
            raise UserError(
                f'{place.partition(".")[0]} has no images: none in {images} ends in '
                f'{made.img_suffix!r}.\n  to fix it: img_suffix=... in the dataset (and '
                f'seg_map_suffix, {made.seg_map_suffix!r} now, for the masks).'
            )
        yield from seg_data.overlooked(made, samples, images, place)
        pairs = [(s['img_path'], s['seg_map_path']) for s in samples if s.get('seg_map_path')]
        absent = [*check_present(files, made.ann_file or images, 'images')]
        if _loads_masks(dataset):
            absent += check_present([mask for _, mask in pairs], made.ann_file or masks, 'masks')
        yield from absent
        if absent:
            return
        yield from check_images(files, dataset, place, glance)
        yield from seg_data.check_ignore_index(cfg, made.ignore_index, place)
        yield from seg_data.check_batch(cfg, dataset, files, place, glance)
        if num_classes := self._num_classes(cfg, dataset):
            yield from check_masks(
                pairs,
                Labelling(num_classes, made.reduce_zero_label, made.label_map, made.ignore_index),
                glance,
                every_class=place.startswith('train'),
            )

    def _num_classes(self, cfg: Config, dataset: dict) -> int:
        """How many classes the masks have: 0 if that is not known, or the pipeline has a path of the
        user's own from files to classes.
        """
        if not _loads_masks(dataset):
            return 0
        classes = classes_of(dataset, 'the dataset')
        heads = self.heads(cfg.get('model'))
        return len(classes) if classes else max((head.num_classes for head in heads), default=0)

    def tta_model(self, model: Any) -> dict[str, Any]:
        return dict(type='SegTTAModel')

    def tta_pipeline(self, pipeline: Sequence[dict]) -> list[dict]:
        """Six sizes and their mirror images, as mmseg's own configs have them.

        Labels are loaded behind all that changes the image: the metric is taken at the original size.
        """
        steps = [
            step for step in pipeline if type_name(step) not in ('Resize', 'LoadImageFromFile')
        ]
        load = [step for step in pipeline if type_name(step) == 'LoadImageFromFile']
        resize = next((step for step in pipeline if type_name(step) == 'Resize'), None)
        sizes = [_resized(resize, ratio) for ratio in RATIOS]
        return [*load, views(sizes, FLIPS, *([step] for step in steps))]

    def drawn(self, pixels: Pixels, sample: Any, look: Look, score_thr: float) -> Pixels:
        return class_map(pixels, sample.pred_sem_seg.data[0].numpy(), look)

    def drawn_truth(self, pixels: Pixels, sample: Any, look: Look) -> Pixels | None:
        truth = sample.get('gt_sem_seg')
        return None if truth is None else class_map(pixels, truth.data[0].numpy(), look)

    def labelled(self, cfg: Config) -> Iterator[tuple[str, Callable[[], NDArray]]]:
        for name in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
            for dataset, place in datasets_of(cfg.get(name), name):
                if is_remote(dataset) or not _loads_masks(dataset):
                    continue
                made = _made(dataset, place, None)
                try:
                    samples = made.load_data_list() if made is not None else []
                except OSError:  # a dataset that is not on this machine
                    continue
                steps = [s for s in dataset['pipeline'] if type_name(s) == 'LoadAnnotations']
                for sample in samples:
                    yield os.path.realpath(sample['img_path']), partial(_labels, steps[0], sample)

    no_label_map = 'the pipeline loads no masks (LoadAnnotations), or the dataset has none'

    def label_map(self, sample: Any) -> NDArray | None:
        truth = sample.get('gt_sem_seg')
        return None if truth is None else truth.data[0].cpu().numpy()

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


def _resized(resize: Mapping[str, Any] | None, ratio: float) -> dict[str, Any]:
    """The resizing of a pipeline to a multiple of its size."""
    if resize is None:
        return dict(type='Resize', scale_factor=ratio, keep_ratio=True)
    if resize.get('scale') is None:
        factor = resize['scale_factor']
        factors = [f * ratio for f in factor] if isinstance(factor, (list, tuple)) else None
        return {**resize, 'scale_factor': tuple(factors) if factors else factor * ratio}
    scale = resize['scale']
    sides = scale if isinstance(scale, (list, tuple)) else (scale, scale)
    return {**resize, 'scale': tuple(max(1, round(side * ratio)) for side in sides)}


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
        if 'palette' in str(e):
            colours = dataset['metainfo']['palette']
            raise UserError(
                f'{place}.metainfo has {len(classes or ())} classes ({some_of(classes or ())}) and a '
                f'palette of {len(colours)} colours.\n  to fix it: palette=[] beside the classes '
                '(colours are made up then), or a colour for each: palette=[[r, g, b], ...].'
            ) from e
        if 'METAINFO' not in str(e):
            raise
        raise UserError(
            f'the classes of {place.partition(".")[0]} ({some_of(classes or ())}) are not all among '
            f'those that {type_name(dataset)} is known for.\n'
            "  to fix it, for classes of your own: type='BaseSegDataset' in each dataset."
        ) from e


def _labels(step: Mapping[str, Any], sample: dict[str, Any]) -> NDArray:
    """The label map of a sample, read by the host's own step."""
    return TRANSFORMS.build(step)(sample)['gt_seg_map']


def _loads_masks(dataset: dict) -> bool:
    """By the host's own step."""
    steps = dataset.get('pipeline') or []
    return any(
        type_name(step) == 'LoadAnnotations'
        and not str(step['type']).startswith(('mmdet.', 'mmpretrain.', 'paca_mm.'))
        for step in steps
    )


def _has_own_labels(head: dict) -> bool:
    """Whether a head does not learn the labels of the dataset as the others do."""
    try:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    except ImportError:
        return False
    cls = head['type']
    if isinstance(cls, str):
        with MODELS.switch_scope_and_registry('mmseg') as registry:
            cls = registry.get(cls)
    if not isinstance(cls, type):
        return False  # building the model says that nobody knows it
    return getattr(cls, 'loss_by_feat', None) is not BaseDecodeHead.loss_by_feat
