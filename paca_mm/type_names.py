"""What a config's ``type`` is called, be it a word, a word with its scope, or the class itself.

Text configs name types, pure-Python (lazy) ones hold the classes, and a lazy config that was written
to a file names them with their modules (``'mmengine.optim.optimizer.AmpOptimWrapper'``).
"""

from collections.abc import Mapping
from typing import Any

#: Classes that registries call otherwise than their modules do.
_REGISTERED = {
    'PretrainedInit': 'Pretrained',
    'SyncBatchNorm': 'SyncBN',
    'BatchNorm2d': 'BN',
}


def type_name(of: Any) -> str:
    """The name of a type, without its scope or module.

    >>> type_name('paca_mm.PaCaViT'), type_name(dict(type='EMAHook')), type_name(dict)
    ('PaCaViT', 'EMAHook', 'dict')

    Args:
        of: A ``type``, or a dict of a config that has one.

    Returns:
        The name as registries know it; ``''`` where there is no type.
    """
    name = full_name(of).rpartition('.')[2]
    return _REGISTERED.get(name, name)


def scope_name(of: Any) -> str:
    """The package of a type: ``'paca_mm'`` for ``'paca_mm.PaCaViT'`` and for the class itself.

    ``''`` where that is not said, as by a word without a scope.
    """
    full = full_name(of)
    return full.partition('.')[0] if '.' in full else ''


def full_name(of: Any) -> str:
    """The name of a type by which every registry finds it: a word as it is, a class with its module."""
    kind = of.get('type') if isinstance(of, Mapping) else of
    if kind is None or isinstance(kind, str):
        return kind or ''
    name = getattr(kind, '__name__', None)  # of a class, or of a registered function
    if name is None:  # mmengine's stand-in for what is not imported yet says its whole name
        return str(kind)
    return f'{getattr(kind, "__module__", "")}.{name}'
