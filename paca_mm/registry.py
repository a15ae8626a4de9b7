"""The registries of ``paca_mm``, children of mmengine's.

mmengine imports this module by itself when a type starts with ``paca_mm.``, so that
``type='paca_mm.PaCaViT'`` works in any project, under any scope, without ``custom_imports``.
"""

import importlib
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

from .environment import STACKS
from .families import Member, member_named

#: What is registered beside the families' members: imported when it is asked for, too.
OTHERS = {
    'MaskTTAModel': Member('paca_mm.engine.mask_tta', host='mmdet'),
    'ClusterVisualizationHook': Member('paca_mm.analysis.clusters.hook'),
}


class _FamilyRegistry(Registry):
    """A registry that imports a member of a family (or of :data:`OTHERS`) and its host when asked."""

    def get(self, key: str) -> Any | None:
        """Look a member up; ImportError with the cure if the package it needs is missing."""
        name = key.rpartition('.')[2]
        member = OTHERS.get(name) or (found[1] if (found := member_named(name)) else None)
        if name not in self.module_dict and member:
            if member.host:
                try:
                    importlib.import_module(member.host)
                except ImportError as e:
                    maintained, classic = (
                        STACKS[s][member.host][0] for s in ('onedl', 'openmmlab')
                    )
                    raise ImportError(
                        f'paca_mm.{name} needs the package {member.host!r}, which could not be '
                        f'imported ({e}). Install it: pip install {maintained} (or {classic}, '
                        'beside classic OpenMMLab)'
                    ) from e
            importlib.import_module(member.module)
        return super().get(key)


def _child(name: str, cls: type[Registry] = Registry, locations: list[str] | None = None):
    parent = getattr(mmengine_registry, name)
    return cls(parent.name, parent=parent, scope='paca_mm', locations=locations or [])


MODELS = _child('MODELS', _FamilyRegistry, ['paca_mm.models'])
METRICS = _child('METRICS', _FamilyRegistry)
RUNNERS = _child('RUNNERS', locations=['paca_mm.engine.runner'])
HOOKS = _child(
    'HOOKS',
    _FamilyRegistry,
    [f'paca_mm.engine.{name}' for name in ('hooks', 'checkpoints', 'finite', 'stopping')],
)
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'OPTIM_WRAPPER_CONSTRUCTORS', locations=['paca_mm.engine.optim']
)
FUNCTIONS = _child('FUNCTIONS', locations=['paca_mm.engine.sharding'])
TRANSFORMS = _child('TRANSFORMS', locations=['paca_mm.datasets.transforms'])
