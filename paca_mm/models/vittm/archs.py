"""The sizes of ViTTM, and the check of those that a user makes up."""

from collections.abc import Mapping
from typing import Any

from paca_mm.errors import UserError, did_you_mean

#: The published sizes.
ARCHS: dict[str, dict[str, int]] = {
    'tiny': dict(embed_dims=192, num_layers=12, num_heads=3),
    'small': dict(embed_dims=384, num_layers=12, num_heads=6),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16),
}

#: Hidden over outer channels of the feed-forward network, where an arch does not say.
MLP_RATIO = 4

#: Channels over those of a query or a key, where one stream reads the other.
LATENT_SCALE = 4


def resolve_arch(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of an arch, as a fresh dict with all four keys.

    Args:
        arch: A name of :data:`ARCHS`, or a mapping with ``embed_dims``, ``num_layers``, ``num_heads``
            and maybe ``mlp_ratio``.

    Raises:
        UserError: The name is unknown, a key is missing or unknown, or a number does not fit.
    """
    required = ('embed_dims', 'num_layers', 'num_heads')
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise UserError(
                f'arch={arch!r} is unknown{did_you_mean(repr(arch), map(repr, ARCHS))} Known: '
                f'{", ".join(map(repr, ARCHS))}, or a dict with {", ".join(required)}.'
            )
        return {**ARCHS[arch], 'mlp_ratio': MLP_RATIO}
    if not isinstance(arch, Mapping):
        raise UserError(f'arch must be a name or a dict, but it is {arch!r}.')
    missing = [key for key in required if key not in arch]
    unknown = [key for key in arch if key not in (*required, 'mlp_ratio')]
    if missing or unknown:
        raise UserError(
            f'an arch dict has the keys {", ".join(required)} (and mlp_ratio); '
            f'missing: {missing or "none"}, unknown: {unknown or "none"}.'
        )
    sizes = {'mlp_ratio': MLP_RATIO, **arch}
    for key in required:
        if not isinstance(sizes[key], int) or sizes[key] < 1:
            raise UserError(
                f'arch[{key!r}] must be a whole number above 0, but it is {sizes[key]!r}.'
            )
    channels, heads, ratio = sizes['embed_dims'], sizes['num_heads'], sizes['mlp_ratio']
    if not isinstance(ratio, (int, float)) or ratio <= 0:
        raise UserError(f"arch['mlp_ratio'] must be a number above 0, but it is {ratio!r}.")
    if channels % (LATENT_SCALE * heads):
        raise UserError(
            f'embed_dims={channels} must be a multiple of {LATENT_SCALE} * num_heads = '
            f'{LATENT_SCALE * heads}: each of the {heads} heads has a {LATENT_SCALE * heads}th of the '
            'channels as a query of the memory.'
        )
    return sizes
