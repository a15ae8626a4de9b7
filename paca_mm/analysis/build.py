"""Building models with random weights: of a config, or a backbone inside a host's model."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from paca_mm.engine.config import load_config
from paca_mm.engine.mistakes import explained
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.families import Family
from paca_mm.models.common.norms import revert_sync_batchnorm

#: The models that take any backbone, by task: ``configs/<task>/_base_/models/<name>.py``.
HOSTS = {'mask_rcnn': 'det', 'upernet': 'seg', 'paca_head': 'seg', 'fpn': 'seg'}


def build(cfg: Config) -> nn.Module:
    """The model of a config, without loading any weights, and with BN for SyncBN."""
    init_default_scope(cfg.default_scope)
    model = dict(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with explained(cfg):
        return revert_sync_batchnorm(MODELS.build(model))


def host_config(host: str, backbone: Mapping[str, Any], widths: Sequence[int]) -> Config:
    """A model of :data:`HOSTS` on any backbone.

    Args:
        host: A name in :data:`HOSTS`.
        backbone: The config of the backbone.
        widths: The channels of its maps at 1/4, 1/8, 1/16 and 1/32 of the image.
    """
    cfg = load_config(f'configs/{HOSTS[host]}/_base_/models/{host}.py')
    cfg.default_scope = TASKS[HOSTS[host]].scope
    model = cfg.model
    model.backbone = dict(backbone)
    (model.neck if 'neck' in model else model.decode_head).in_channels = list(widths)
    if 'auxiliary_head' in model:
        model.auxiliary_head.in_channels = widths[model.auxiliary_head.in_index]
    return cfg


def row_config(host: str, family: Family, row: str) -> Config:
    """A model of :data:`HOSTS` on a published backbone: the published config where there is one.

    Raises:
        UserError: There is none, and the family does not say how wide its stages are, or they are
            no pyramid.
    """
    catalogue = family.catalogue
    if catalogue and host in catalogue.kinds and row in catalogue.rows_of(host):
        cfg = load_config(catalogue.config(host, row))
        cfg.model.backbone.pop('init_cfg', None)
        return cfg
    if family.widths is None:
        raise UserError(f'{family.title} does not say how wide its stages are.')
    arguments = family.rows[row].backbone
    widths = family.widths(arguments)
    if len(widths) != 4:
        raise UserError(
            f'{host} takes four maps, at 1/4 to 1/32 of the image, but a {family.title} has '
            f'{len(widths)} of another kind.\n  to fix it: name a config that is made for it.'
        )
    backbone = dict(type=f'paca_mm.{family.backbone}', **arguments)
    return host_config(host, backbone, widths)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the lines that hosts log for every parameter that they initialise."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
