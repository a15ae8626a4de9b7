"""Building a config's model and calling it on a made-up image."""

from typing import Any

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope


def build(cfg: Config) -> nn.Module:
    """The model of a config, without loading any weights, and with BN for SyncBN."""
    init_default_scope(cfg.default_scope)
    model = dict(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(model))


def forward(model: nn.Module, task: str, height: int, width: int) -> Any:
    """Run a model on one image of noise, as its host's ``mode='tensor'`` does."""
    image = torch.randn(1, 3, height, width, device=next(model.parameters()).device)
    if task != 'det':
        return model(image, mode='tensor')
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=_meta(height, width))
    return model(image, [sample], mode='tensor')


def annotations(model: nn.Module, batch: int, height: int, width: int) -> list:
    """Made-up annotations, one sample an image, for a step of training or of prediction.

    A detector's sample has ten boxes with masks, a segmentor's a map of random classes, a
    classifier's a label.
    """
    meta = _meta(height, width)
    return [_annotation(model, meta, height, width) for _ in range(batch)]


def _meta(height: int, width: int) -> dict:
    """What a pipeline writes about an image that nothing was done to."""
    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    return {**dict.fromkeys(shapes, (height, width)), 'scale_factor': (1.0, 1.0)}


def _annotation(model: Any, meta: dict, height: int, width: int) -> Any:
    if hasattr(model, 'roi_head'):
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData

        corners = torch.rand(10, 2) * torch.tensor([width, height]) * 0.7
        sides = torch.rand(10, 2) * torch.tensor([width, height]) * 0.25 + 8
        boxes = torch.cat([corners, corners + sides], 1)
        masks: Any = np.zeros((10, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        found = DetDataSample(metainfo=meta)
        found.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(model.roi_head.bbox_head.num_classes, (10,)),
            masks=BitmapMasks(masks, height, width),
        )
        return found
    if hasattr(model, 'decode_head'):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        classes = torch.randint(model.decode_head.num_classes, (1, height, width))
        return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=classes))
    from mmpretrain.structures import DataSample

    return DataSample(metainfo=meta).set_gt_label(0)
