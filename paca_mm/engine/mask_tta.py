"""Merging what a detector sees in several views of an image: boxes, and the masks that go with them."""

from collections.abc import Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.structures import InstanceData
from torch import Tensor

from paca_mm.registry import MODELS


@MODELS.register_module()
class MaskTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel``, which merges boxes and refuses masks, with masks.

    Boxes of all views go through one suppression, as there. A box that is kept brings its own mask,
    turned back as the view was: masks are not averaged, since what is merged are finished ones.
    Without masks it does what ``DetTTAModel`` does.

    Args:
        **kwargs: Of ``DetTTAModel``: ``module``, and ``tta_cfg`` with ``nms`` and ``max_per_img``.
    """

    def _merge_single_sample(self, data_samples: Sequence[DetDataSample]) -> DetDataSample:
        views = [sample.pred_instances for sample in data_samples]
        if 'masks' not in views[0]:
            return super()._merge_single_sample(data_samples)
        boxes = torch.cat([_turned_back(s.pred_instances.bboxes, s) for s in data_samples])
        masks = torch.cat([_masks_turned_back(s.pred_instances.masks, s) for s in data_samples])
        scores = torch.cat([view.scores for view in views])
        labels = torch.cat([view.labels for view in views])
        merged = data_samples[0]
        if not len(boxes):
            return merged
        kept_boxes, kept = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        kept_boxes = kept_boxes[: self.tta_cfg.max_per_img]
        kept = kept[: self.tta_cfg.max_per_img]
        merged.pred_instances = InstanceData(
            bboxes=kept_boxes[:, :4],
            scores=kept_boxes[:, 4],
            labels=labels[kept],
            masks=masks[kept],
        )
        return merged


def _turned_back(boxes: Tensor, sample: DetDataSample) -> Tensor:
    """Boxes (N, 4) of a view in the image as it is."""
    if not sample.metainfo.get('flip'):
        return boxes
    return bbox_flip(boxes, sample.ori_shape, sample.flip_direction)


def _masks_turned_back(masks: Tensor, sample: DetDataSample) -> Tensor:
    """Masks (N, H, W) of a view in the image as it is."""
    if not sample.metainfo.get('flip'):
        return masks
    axes = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}
    return masks.flip(axes[sample.flip_direction])
