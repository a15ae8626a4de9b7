"""The sizes of PaCa-ViT, and the check of those that a user makes up."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from paca_mm.errors import UserError

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
    if isinstance(arch, str):
        if arch not in ARCHS:
            near = get_close_matches(arch, ARCHS, n=1)
            raise UserError(
                f'arch={arch!r} is unknown'
                + (f'; did you mean {near[0]!r}?' if near else '.')
                + f' Known: {", ".join(map(repr, ARCHS))}, or a dict with {", ".join(_REQUIRED)}.'
            )
        return {key: tuple(sizes) for key, sizes in ARCHS[arch].items()}

    if not isinstance(arch, Mapping):
        raise UserError(f'arch must be a name or a dict, but it is {arch!r}.')
    missing = [key for key in _REQUIRED if key not in arch]
    unknown = [key for key in arch if key not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        raise UserError(
            f'an arch dict has the keys {", ".join(_REQUIRED)} (and {", ".join(_OPTIONAL)}); '
            f'missing: {missing or "none"}, unknown: {unknown or "none"}.'
        )
    sizes = {}
    num_stages = None
    for key, value in arch.items():
        if isinstance(value, str) or not hasattr(value, '__len__'):
            raise UserError(f'arch[{key!r}] must list one number per stage, but it is {value!r}.')
        sizes[key] = tuple(value)
        num_stages = len(sizes[key]) if num_stages is None else num_stages
        if len(sizes[key]) != num_stages or not num_stages:
            raise UserError(
                f'every list of an arch has one number per stage, but their lengths are '
                f'{ {k: len(v) for k, v in arch.items()} }.'
            )
        whole = key != 'mlp_ratios'
        if any(v <= 0 or (whole and v != int(v)) for v in sizes[key]):
            kind = 'whole numbers above 0' if whole else 'numbers above 0'
            raise UserError(f'arch[{key!r}] must hold {kind}, but it is {value!r}.')
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
