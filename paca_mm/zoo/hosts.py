"""The names of our models, where the hosts look names up."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mmengine.infer import BaseInferencer

from paca_mm.paths import assets_root

from .metafiles import folder_of, metafiles, read_metafile

#: The host that runs the models of a folder in ``configs/``.
SCOPES = {'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}


def tell_inferencers() -> None:
    """Put our models behind those that mmengine's inferencers find in their hosts' metafiles.

    They look in the installed host only, in a list that cannot be added to, so the function that reads
    it is wrapped. Doing it again does nothing.
    """
    known = BaseInferencer._get_models_from_metafile
    if getattr(known, 'knows_paca_mm', False):
        return

    def _get_models_from_metafile(dir: str) -> Iterator[dict[str, Any]]:
        yield from known(dir)
        for task, scope in SCOPES.items():
            with suppress(ImportError, FileNotFoundError):  # a host that is not there
                if BaseInferencer._get_repo_or_mim_dir(scope) == dir:
                    yield from _models_of(task)

    _get_models_from_metafile.knows_paca_mm = True  # type: ignore[attr-defined]
    BaseInferencer._get_models_from_metafile = staticmethod(_get_models_from_metafile)


def tell_mmpretrain() -> None:
    """Register our classifiers in mmpretrain's ``ModelHub``; doing it again does nothing."""
    from mmpretrain.apis import ModelHub

    for name in metafiles('cls'):
        if not ModelHub.has(read_metafile(name)[0].name):
            file = folder_of(name) / 'metafile.yml'
            ModelHub.register_model_index(file, config_prefix=assets_root())


def _models_of(task: str) -> Iterator[dict[str, Any]]:
    """The models of a task, as a metafile of the host names them."""
    for name in metafiles(task):
        for entry in read_metafile(name):
            config = str(assets_root() / entry.config)
            yield {'Name': entry.name, 'Config': config, 'Weights': entry.weights}
