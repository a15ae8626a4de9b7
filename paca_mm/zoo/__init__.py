"""The published models of all families: their configs, their weights, their names in mmpretrain.

>>> from paca_mm import zoo
>>> zoo.register()
>>> from mmpretrain import get_model, list_models
>>> list_models('paca_*c49*')
['paca_small_c49_100_in1k', 'paca_small_c49_in1k']
>>> model = get_model('paca_tiny_in1k')  # pretrained=True fetches the official weights
"""

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
from paca_mm.paths import assets_root

from . import metafiles

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
    """Make mmpretrain's ``get_model`` and ``list_models`` know the classifiers of this package.

    Calling it again does nothing.
    """
    from mmpretrain.apis import ModelHub

    root = assets_root()
    for name in metafiles.metafiles('cls'):
        if not ModelHub.has(metafiles.read_metafile(name)[0].name):
            file = metafiles.folder_of(name) / 'metafile.yml'
            ModelHub.register_model_index(file, config_prefix=root)
