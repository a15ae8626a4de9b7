"""Detection and instance segmentation, by mmdetection."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor

from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.shapes import CLASSES

from ..data_checks import Head, heads_of, is_remote
from ..drawing import Look, Pixels, instances
from ..walk import walk
from . import det_data
from .base import FLIPS, Task, named, views


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

    def heads(self, model: Any) -> list[Head]:
        """Not the RPN, which tells objects from background, and not a semantic head, whose labels are
        those of stuff.
        """
        return [
            head
            for head in heads_of(model)
            if not head.place.startswith(('backbone', 'neck'))
            and not any(part in head.place for part in ('rpn_head', 'semantic_head'))
            and 'Semantic' not in head.type
        ]

    def check_dataset(
        self, cfg: Config, dataset: dict, place: str, glance: Glance
    ) -> Iterator[Fault]:
        if is_remote(dataset):
            return
        kind = det_data.kind_of(dataset)
        yield from det_data.CHECKS[kind](self, cfg, dataset, place, glance)

    def check_evaluators(self, cfg: Config, place: str, dataset: dict) -> Iterator[Fault]:
        yield from det_data.check_evaluators(self, cfg, place, dataset)

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

    def tta_model(self, model: Any) -> dict[str, Any]:
        return dict(
            type='paca_mm.MaskTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        )

    def tta_pipeline(self, pipeline: Sequence[dict]) -> list[dict]:
        *before, pack = pipeline
        keys = pack.get('meta_keys', _META_KEYS)  # how an image was flipped must be among them
        keys = dict.fromkeys((*keys, 'flip', 'flip_direction'))
        return [*before, views(FLIPS, [{**pack, 'meta_keys': tuple(keys)}])]

    def drawn(self, pixels: Pixels, sample: Any, look: Look, score_thr: float) -> Pixels:
        found = sample.pred_instances
        found = found[found.scores >= score_thr]
        return _drawn(pixels, found, look, found.scores.tolist())

    def drawn_truth(self, pixels: Pixels, sample: Any, look: Look) -> Pixels | None:
        truth = sample.get('gt_instances')
        if truth is None or 'bboxes' not in truth:  # images without annotations
            return None
        return _drawn(pixels, truth, look)

    no_label_map = (
        'the pipeline loads no masks (with_mask=True in LoadAnnotations), or there are none'
    )

    def label_map(self, sample: Any) -> np.ndarray | None:
        """Of the instances, the small ones over the large ones; 0 is what belongs to none."""
        truth = sample.get('gt_instances')
        if truth is None or 'masks' not in truth:
            return None
        masks: Any = truth.masks
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)
        if masks.ndim != 3:
            return None
        painted = np.zeros(masks.shape[1:], np.int64)
        order = masks.reshape(len(masks), -1).sum(1).argsort()[::-1] if len(masks) else []
        for number in order:
            painted[masks[number] > 0] = int(truth.labels[number]) + 1
        return painted

    def label_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ('(background)', *classes) if classes else ()

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


#: What mmdet's ``PackDetInputs`` keeps by itself.
_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def _drawn(pixels: Pixels, found: Any, look: Look, scores: Any = None) -> Pixels:
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    masks = found.get('masks')
    if hasattr(masks, 'to_ndarray'):  # as they are annotated
        masks = masks.to_ndarray()
    return instances(
        pixels,
        np.asarray(boxes, np.float64).reshape(-1, 4),
        found.labels.tolist(),
        look,
        scores,
        None if masks is None else np.asarray(masks, bool),
    )


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
