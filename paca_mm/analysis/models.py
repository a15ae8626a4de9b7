"""Building a config's model and calling it on a made-up picture."""

from typing import Any

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
    """Run a model on one picture of noise, as its host's ``mode='tensor'`` does."""
    picture = torch.randn(1, 3, height, width, device=next(model.parameters()).device)
    if task != 'det':
        return model(picture, mode='tensor')
    from mmdet.structures import DetDataSample

    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            batch_input_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
    )
    return model(picture, [sample], mode='tensor')
