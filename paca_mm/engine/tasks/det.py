"""Detection and instance segmentation, by mmdetection."""

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor

from paca_mm.datasets.shapes import CLASSES
from paca_mm.errors import UserError, some_of

from ..data_checks import (
    as_python,
    check_images,
    check_num_classes,
    classes_of,
    heads_of,
    path_in,
)
from ..walk import walk
from .base import Task, named


class Detection(Task):
    """Boxes and masks of things."""

    name = 'det'
    scope = 'mmdet'
    title = 'detection'
    image_size = (800, 1280)
    shapes_config = 'configs/det/mask_rcnn_paca_shapes.py'
    shapes_classes = CLASSES
    headline = 'coco/segm_mAP_50'
    demo_goal = 0.5
    dump_type = 'DumpDetResults'

    def check_dataset(self, cfg: Config, dataset: dict, place: str) -> None:
        ann_file = path_in(dataset, dataset.get('ann_file', ''))
        images = path_in(dataset, (dataset.get('data_prefix') or {}).get('img', ''))
        self.require_path(ann_file, 'annotation file', f'{place}.ann_file', dataset)
        self.require_path(images, 'image folder', f'{place}.data_prefix.img', dataset)
        classes = classes_of(dataset)
        categories = _categories(ann_file)
        if classes is not None:
            heads = ' and '.join(head.place for head in heads_of(cfg))
            absent = [name for name in classes if name not in categories]
            if absent:
                raise UserError(
                    f'{ann_file} annotates {len(categories)} classes ({some_of(categories)}), but the '
                    f'config expects {len(classes)}, and {len(absent)} of them are not in the file '
                    f'({some_of(absent)}).\n'
                    '  to fix it, for your own classes:\n'
                    f'    metainfo=dict(classes={as_python(categories)}) in each dataset, and\n'
                    f'    num_classes={len(categories)} in {heads}.'
                )
        check_num_classes(cfg, classes or categories, place)
        check_images(_images_named(ann_file, images), dataset, place)

    def check_evaluators(self, cfg: Config, place: str, dataset: dict) -> None:
        for evaluator in walk(cfg.get(place)):
            if evaluator.get('ann_file'):
                self.require_path(evaluator['ann_file'], 'annotation file', place, dataset)

    def suit_shapes(self, model: Any) -> None:
        """Fewer candidates: for a handful of shapes on 128 x 128 pixels, the thousands that are right
        for a street would take most of the time.
        """
        for node in walk([model.get('train_cfg'), model.get('test_cfg')]):
            for key, most in (('nms_pre', 500), ('max_per_img', 200)):
                if 'nms' in node and key in node:
                    node[key] = min(node[key], most)
        heads = (model.get('train_cfg') or {}).get('rcnn')
        for node in walk(heads):  # one, or one a stage
            if 'sampler' in node and 'num' in node['sampler']:
                node['sampler']['num'] = min(node['sampler']['num'], 16)
        for node in walk(model):
            if 'num_queries' in node:  # DINO takes them from the positions of the image
                node['num_queries'] = min(node['num_queries'], 100)
            if 'batch_augments' in node:  # to the size that an image of COCO has
                node['batch_augments'] = None
            if 'num_things_classes' in node:  # Mask2Former, whose loss weighs classes and "none"
                count = len(self.shapes_classes)
                node.update(num_things_classes=count, num_stuff_classes=0)
                loss = node.get('loss_cls') or {}
                if isinstance(loss.get('class_weight'), (list, tuple)):
                    loss['class_weight'] = [1.0] * count + [loss['class_weight'][-1]]

    def judge_as(self, cfg: Config, evaluator: Any) -> None:
        """By boxes alone, where the config is: its detector makes no masks, and is given none."""
        metrics = [node['metric'] for node in walk(evaluator) if node.get('metric')]
        if metrics and not any('segm' in metric for metric in metrics):
            cfg.val_evaluator['metric'] = cfg.test_evaluator['metric'] = ['bbox']
            for phase in ('train', 'val', 'test'):
                for step in walk(cfg[f'{phase}_dataloader'].dataset.pipeline):
                    if 'with_mask' in step:
                        step['with_mask'] = False

    def draw_into(self, cfg: Config, folder: str) -> None:
        cfg.default_hooks.visualization.update(draw=True, test_out_dir=folder)

    def draw(
        self, visualizer: Any, name: str, pixels: Any, sample: Any, out_file: str, score_thr: float
    ) -> None:
        visualizer.add_datasample(
            name, pixels, sample, out_file=out_file, draw_gt=False, pred_score_thr=score_thr
        )

    def record(self, sample: Any, classes: Sequence[str], score_thr: float) -> dict[str, Any]:
        found = sample.pred_instances
        return {'instances': list(_instances(found[found.scores >= score_thr], classes))}

    def forward(self, model: nn.Module, images: Tensor, meta: Mapping[str, Any]) -> Any:
        from mmdet.structures import DetDataSample

        return model(images, [DetDataSample(metainfo=dict(meta)) for _ in images], mode='tensor')

    def toy_sample(self, model: Any, meta: Mapping[str, Any]) -> Any:
        """Ten boxes, with masks for a model of which a part is called so."""
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData

        height, width = meta['img_shape']
        corners = torch.rand(10, 2) * torch.tensor([width, height]) * 0.7
        sides = torch.rand(10, 2) * torch.tensor([width, height]) * 0.25 + 8
        boxes = torch.cat([corners, corners + sides], 1)
        sample = DetDataSample(metainfo=dict(meta))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.randint(_num_classes(model), (10,))
        )
        if any('mask' in name for name, _ in model.named_modules()):
            masks: Any = np.zeros((10, height, width), np.uint8)
            for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
                mask[top:bottom, left:right] = 1
            sample.gt_instances.masks = BitmapMasks(masks, height, width)
        return sample


def _num_classes(model: Any) -> int:
    """Of a two-stage detector's box head, or of the one head of a one-stage or DETR detector."""
    if hasattr(model, 'panoptic_head'):
        return model.panoptic_head.num_things_classes
    head: Any = model.roi_head.bbox_head if hasattr(model, 'roi_head') else model.bbox_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # a cascade
    return head.num_classes


def _instances(found: Any, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    for i in range(len(found)):
        record = named(int(found.labels[i]), classes)
        record['score'] = float(found.scores[i])
        record['bbox'] = [round(v, 2) for v in found.bboxes[i].tolist()]
        if 'masks' in found:
            record['mask'] = _run_lengths(found.masks[i])
        yield record


def _run_lengths(mask: Tensor) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {'size': list(encoded['size']), 'counts': encoded['counts'].decode()}


def _categories(ann_file: str) -> tuple[str, ...]:
    """The class names of a COCO file, read from their own part of it (the file may be 450 MB)."""
    try:
        with open(ann_file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begin = text.rfind(b'"categories"')
            begin = text.find(b'[', begin) if begin >= 0 else -1
            if begin < 0:
                raise ValueError('it has no "categories"')
            part = text[begin : begin + 8_000_000].decode('utf-8', 'replace')
        categories = json.JSONDecoder().raw_decode(part)[0]
        return tuple(category['name'] for category in categories)
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{ann_file} is no COCO annotation file, or a torn one ({e}): it must be JSON with '
            'images, annotations and categories.'
        ) from e


def _images_named(ann_file: str, folder: str) -> list[str]:
    """The files that a COCO file names, as far as they are there; other files are nobody's."""
    with open(ann_file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text:
        names = {json.loads(m[1]) for m in re.finditer(_FILE_NAME, text)}
    return [path for name in sorted(names) if os.path.isfile(path := os.path.join(folder, name))]


#: A file's name and its text as JSON, in the quotes.
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
