"""Sizes as rows of a table: an arch is a name or a dict, checked before anything is built."""

from collections.abc import Mapping, Sequence
from typing import Any

from paca_mm.errors import UserError, did_you_mean


def resolve_arch(
    arch: str | Mapping[str, Any],
    known: Mapping[str, Mapping[str, Sequence]],
    required: Sequence[str],
    optional: Sequence[str] = (),
    fractions: Sequence[str] = (),
    zeros: Sequence[str] = (),
) -> dict[str, tuple]:
    """The sizes of an arch, as a fresh dict of tuples with one entry a stage.

    Args:
        arch: A name, or a mapping of the user's own.
        known: The published sizes by name.
        required: Keys that a mapping must have.
        optional: Keys that it may have.
        fractions: Keys whose numbers need not be integers.
        zeros: Keys whose numbers may be 0.

    Raises:
        UserError: The name is unknown, a key is missing or unknown, the lengths differ, or a number
            is too small.
    """
    if isinstance(arch, str):
        if arch not in known:
            raise UserError(
                f'arch={arch!r} is unknown{did_you_mean(repr(arch), map(repr, known))} Known: '
                f'{", ".join(map(repr, known))}, or a dict with {", ".join(required)}.'
            )
        return {key: tuple(sizes) for key, sizes in known[arch].items()}

    if not isinstance(arch, Mapping):
        raise UserError(f'arch must be a name or a dict, but it is {arch!r}.')
    missing = [key for key in required if key not in arch]
    unknown = [key for key in arch if key not in (*required, *optional)]
    if missing or unknown:
        also = f' (and {", ".join(optional)})' if optional else ''
        raise UserError(
            f'an arch dict has the keys {", ".join(required)}{also}; '
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
        whole, least = key not in fractions, 'from 0' if key in zeros else 'above 0'
        if any(
            v < 0 or (not v and key not in zeros) or (whole and v != int(v)) for v in sizes[key]
        ):
            kind = f'whole numbers {least}' if whole else f'numbers {least}'
            raise UserError(f'arch[{key!r}] must hold {kind}, but it is {value!r}.')
    return sizes
