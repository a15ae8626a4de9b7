"""Building a config's model and calling it on a made-up image."""

from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from paca_mm.engine.tasks import TASKS
from paca_mm.models.common.norms import revert_sync_batchnorm


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
    return TASKS[task].forward(model, image, _meta(height, width))


def annotations(model: nn.Module, task: str, batch: int, height: int, width: int) -> list:
    """Made-up annotations, one sample an image, for a step of training or of prediction.

    A detector's sample has ten boxes with masks, a segmentor's a map of random classes, a
    classifier's a label.
    """
    return [TASKS[task].toy_sample(model, _meta(height, width)) for _ in range(batch)]


def _meta(height: int, width: int) -> dict:
    """What a pipeline writes about an image that nothing was done to."""
    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    return {**dict.fromkeys(shapes, (height, width)), 'scale_factor': (1.0, 1.0)}
