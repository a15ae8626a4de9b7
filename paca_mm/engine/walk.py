"""Going through a config."""

from collections.abc import Iterator
from typing import Any

from paca_mm.type_names import scope_name, type_name

__all__ = ['leave_weights_out', 'scope_name', 'type_name', 'walk', 'weights_of']


def walk(node: Any) -> Iterator[dict]:
    """Every dict in a config, from the outside in."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)


def _inits_of(node: dict) -> list[dict]:
    """What stands in the ``init_cfg`` of a module, which may be one, several or none."""
    init = node.get('init_cfg')
    return list(init) if isinstance(init, (list, tuple)) else [init] if init else []


def weights_of(node: dict) -> list[dict]:
    """What a module loads when it is initialised: the ``Pretrained`` in its ``init_cfg``."""
    return [init for init in _inits_of(node) if type_name(init) == 'Pretrained']


def leave_weights_out(cfg: Any) -> None:
    """Let no module of a config load a checkpoint when it is initialised, in place."""
    for node in walk(cfg):
        if weights := weights_of(node):
            node['init_cfg'] = [init for init in _inits_of(node) if init not in weights] or None
