"""The published models of all families: their configs, their weights, their names in mmpretrain.

>>> from paca_mm import zoo
>>> zoo.register()
>>> from mmpretrain import get_model, list_models
>>> list_models('paca_*c49*')
['paca_small_c49_100_in1k', 'paca_small_c49_in1k']
>>> model = get_model('paca_tiny_in1k')  # pretrained=True fetches the official weights
"""

from importlib.util import find_spec

from paca_mm.families import Row

# PaCa's rows by their short names, which is how this module began.
from paca_mm.models.paca.rows import (
    ADE_CLUSTERS,
    RELEASE,
    ROWS,
    config_name,
    rows_like,
    weights_url,
)
from paca_mm.models.paca.rows import (
    KINDS as MODELS,
)

from . import hosts

__all__ = [
    'ADE_CLUSTERS',
    'MODELS',
    'RELEASE',
    'ROWS',
    'Row',
    'config_name',
    'register',
    'rows_like',
    'weights_url',
]


def register() -> None:
    """Let the hosts know the models of this package by their names; ``import paca_mm.names`` does it.

    From then on ``DetInferencer('mask_rcnn_paca_tiny')``, ``MMSegInferencer(...)`` and mmpretrain's
    ``get_model``, ``list_models`` and inferencers take them. Calling it again does nothing.
    """
    hosts.tell_inferencers()
    if find_spec('mmpretrain'):
        hosts.tell_mmpretrain()
