"""The sizes of RapidNet, and the check of those that a user makes up."""

from collections.abc import Mapping, Sequence
from typing import Any

from paca_mm.errors import UserError

from ..common import archs

#: The published sizes: C, inverted residuals and MLDC blocks of each stage.
ARCHS: dict[str, dict[str, Any]] = {
    'ti': dict(
        embed_dims=(32, 64, 112, 224), inverted_blocks=(2, 2, 6, 2), mldc_blocks=(0, 0, 2, 2)
    ),
    's': dict(
        embed_dims=(32, 64, 112, 224), inverted_blocks=(3, 3, 9, 3), mldc_blocks=(0, 0, 3, 3)
    ),
    'm': dict(
        embed_dims=(32, 64, 160, 320), inverted_blocks=(3, 3, 9, 3), mldc_blocks=(0, 0, 3, 3)
    ),
    'b': dict(
        embed_dims=(64, 128, 224, 416), inverted_blocks=(3, 3, 9, 3), mldc_blocks=(0, 0, 3, 3)
    ),
}

#: Channels of the classifier's hidden layer, by the published size; 512 for other sizes.
HEAD_CHANNELS = {'ti': 512, 's': 512, 'm': 512, 'b': 768}


def resolve_arch(arch: str | Mapping[str, Any]) -> dict[str, tuple]:
    """The sizes of an arch, as a fresh dict of tuples with one entry a stage.

    Args:
        arch: A name of :data:`ARCHS`, or a mapping with ``embed_dims``, ``inverted_blocks`` and
            ``mldc_blocks``. Of the last two either may be 0 in a stage, but not both.

    Raises:
        UserError: The name is unknown, a key is missing or unknown, the lengths differ, or a number
            does not fit.
    """
    blocks = ('inverted_blocks', 'mldc_blocks')
    sizes = archs.resolve_arch(arch, ARCHS, ('embed_dims', *blocks), zeros=blocks)
    if not all(map(sum, zip(*(sizes[key] for key in blocks), strict=True))):
        raise UserError(
            f'inverted_blocks={sizes["inverted_blocks"]} and mldc_blocks={sizes["mldc_blocks"]} leave '
            'a stage without blocks: give every stage at least one of either.'
        )
    if sizes['embed_dims'][0] % 2:
        raise UserError(
            f'embed_dims[0]={sizes["embed_dims"][0]} must be even: the first half of the stem has '
            'half of them.'
        )
    return sizes


def head_channels(embed_dims: Sequence[int]) -> int:
    """The hidden channels of a classifier on a backbone of these widths."""
    return next(
        (
            HEAD_CHANNELS[name]
            for name, sizes in ARCHS.items()
            if tuple(embed_dims) == sizes['embed_dims']
        ),
        512,
    )


def drop_path_rates(rate: float, inverted: Sequence[int], mldc: Sequence[int]) -> list[list[float]]:
    """Stochastic depth of every block, a list a stage: the published rule.

    The official list grows linearly from 0 to ``rate`` over all blocks, but only an MLDC block moves
    on in it. So the rates used are the first few: 0.02 at most for Ti at ``rate=0.1``. These numbers
    belong to the published results and are kept.
    """
    total = sum(inverted) + sum(mldc)
    rates, index = [], 0
    for i, m in zip(inverted, mldc, strict=True):
        steps = [index] * i + list(range(index, index + m))
        rates.append([rate * step / max(total - 1, 1) for step in steps])
        index += m
    return rates
