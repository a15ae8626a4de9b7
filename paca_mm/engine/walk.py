"""Going through a config."""

from collections.abc import Iterator
from typing import Any


def walk(node: Any) -> Iterator[dict]:
    """Every dict in a config, from the outside in."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)


def inits_of(node: dict) -> list[dict]:
    """What stands in the ``init_cfg`` of a module, which may be one, several or none."""
    init = node.get('init_cfg')
    return list(init) if isinstance(init, (list, tuple)) else [init] if init else []


def leave_weights_out(cfg: Any) -> None:
    """Let no module of a config load a checkpoint when it is initialised, in place."""
    for node in walk(cfg):
        inits = inits_of(node)
        kept = [init for init in inits if init.get('type') != 'Pretrained']
        if len(kept) < len(inits):
            node['init_cfg'] = kept or None
