"""``pretrained=``, which mmseg's segmentors hand on to their backbones beside ``init_cfg``."""

from collections.abc import Mapping
from typing import Any

from paca_mm.errors import UserError
from paca_mm.type_names import type_name


def pretrained_init(init_cfg: Any, pretrained: str | None) -> Any:
    """The ``init_cfg`` of a module that was given ``pretrained`` besides.

    Args:
        init_cfg: The module's: a dict, several, or None.
        pretrained: A file or URL; None for nothing.

    Returns:
        ``dict(type='Pretrained', checkpoint=pretrained)`` where there is one, or the ``init_cfg``.

    Raises:
        UserError: Both are given and differ.
    """
    if not pretrained:
        return init_cfg
    inits = (
        list(init_cfg) if isinstance(init_cfg, (list, tuple)) else [init_cfg] if init_cfg else []
    )
    if not inits:
        return dict(type='Pretrained', checkpoint=pretrained)
    for init in inits:
        if is_pretrained(init) and init.get('checkpoint') == pretrained:
            return init_cfg
    raise UserError(
        f'the weights to begin with are named twice, and differently: pretrained={pretrained!r} (of '
        f'the backbone, or of the model around it) and init_cfg={init_cfg!r}.\n'
        '  to fix it: one of them, pretrained=None in the model or init_cfg=None in the backbone.'
    )


def is_pretrained(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` is that of weights, named by a word or by mmengine's class."""
    return isinstance(init_cfg, Mapping) and type_name(init_cfg) == 'Pretrained'
