"""The registries of ``paca_mm``, children of mmengine's.

mmengine imports this module by itself when a type starts with ``paca_mm.``, so that
``type='paca_mm.PaCaViT'`` works in any project, under any scope, without ``custom_imports``.
"""

import importlib
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

#: Names whose module needs a host package that others may live without: module, package, how to get it.
_ON_DEMAND = {
    'PaCaHead': (
        'paca_mm.models.paca.head',
        'mmseg',
        'pip install onedl-mmsegmentation (or mmsegmentation, beside classic OpenMMLab)',
    ),
}


class _ModelRegistry(Registry):
    """A registry that imports a host package only when a model that needs it is asked for."""

    def get(self, key: str) -> Any | None:
        """Look a model up; ImportError with the cure if the package it needs is missing."""
        name = key.rpartition('.')[2]
        if name in _ON_DEMAND and name not in self.module_dict:
            module, package, cure = _ON_DEMAND[name]
            try:
                importlib.import_module(package)
            except ImportError as e:
                raise ImportError(
                    f'paca_mm.{name} needs the package {package!r}, which could not be imported '
                    f'({e}). Install it: {cure}'
                ) from e
            importlib.import_module(module)
        return super().get(key)


def _child(name: str, cls: type[Registry] = Registry, locations: list[str] | None = None):
    parent = getattr(mmengine_registry, name)
    return cls(parent.name, parent=parent, scope='paca_mm', locations=locations or [])


MODELS = _child('MODELS', _ModelRegistry, ['paca_mm.models'])
RUNNERS = _child('RUNNERS', locations=['paca_mm.engine.runner'])
HOOKS = _child('HOOKS', locations=['paca_mm.engine.hooks'])
TRANSFORMS = _child('TRANSFORMS', locations=['paca_mm.datasets.transforms'])
