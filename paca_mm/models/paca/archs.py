"""The sizes of PaCa-ViT, and the check of those that a user makes up."""

from collections.abc import Mapping
from typing import Any

from paca_mm.errors import UserError

from ..common import archs

_TINY: dict[str, Any] = dict(
    embed_dims=(96, 192, 320, 384),
    num_heads=(2, 4, 8, 16),
    depths=(2, 2, 4, 2),
    mlp_ratios=(4, 4, 4, 4),
)
_SMALL = dict(_TINY, depths=(3, 3, 10, 3))
_BASE = dict(_SMALL, embed_dims=(96, 192, 384, 512), depths=(3, 3, 18, 3))

#: The published sizes. ``teacher_depths``: mixer units of the external clustering teacher.
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': _TINY,
    'small': _SMALL,
    'base': _BASE,
    'tiny_teacher': dict(_TINY, depths=(2, 2, 2, 2), teacher_depths=(2, 2, 2, 2)),
    'small_teacher': dict(_SMALL, depths=(3, 3, 7, 3), teacher_depths=(2, 2, 2, 2)),
    'base_teacher': dict(_BASE, depths=(3, 3, 16, 3), teacher_depths=(2, 2, 4, 2)),
}

_REQUIRED = ('embed_dims', 'num_heads', 'depths', 'mlp_ratios')
_OPTIONAL = ('teacher_depths',)


def resolve_arch(arch: str | Mapping[str, Any]) -> dict[str, tuple]:
    """The sizes of an arch, as a fresh dict of tuples with one entry a stage.

    Args:
        arch: A name of :data:`ARCHS`, or a mapping with ``embed_dims``, ``num_heads``, ``depths``,
            ``mlp_ratios`` and, for a clustering teacher, ``teacher_depths``.

    Raises:
        UserError: The name is unknown, a key is missing or unknown, the lengths differ, or a number
            does not fit (a width not divisible by its heads, say).
    """
    sizes = archs.resolve_arch(arch, ARCHS, _REQUIRED, _OPTIONAL, fractions=('mlp_ratios',))
    for channels, heads in zip(sizes['embed_dims'], sizes['num_heads'], strict=True):
        if channels % heads:
            raise UserError(
                f'a stage of {channels} channels cannot be cut into {heads} heads: every number in '
                f'embed_dims={sizes["embed_dims"]} must be a multiple of its number in '
                f'num_heads={sizes["num_heads"]}.'
            )
    if sizes['embed_dims'][0] % 2:
        raise UserError(
            f'embed_dims[0]={sizes["embed_dims"][0]} must be even: the first half of the stem has '
            'half of them.'
        )
    return sizes
