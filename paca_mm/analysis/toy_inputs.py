"""Made-up images and annotations, for any model of a host."""

from typing import Any

import torch
import torch.nn as nn

from paca_mm.engine.tasks import TASKS


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
