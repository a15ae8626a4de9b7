"""Weights that were trained on RGB images, for images of another number of channels.

A convolution that reads the image is adapted as timm does it: for one channel it is summed over its
three, so that a gray image gives what the same image as RGB gave; for n channels they are repeated,
R, G, B, R, ..., and scaled by 3 / n, so that what comes out keeps its size.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

from torch import Tensor

RGB = 3


class Adapted(NamedTuple):
    """A convolution that was adapted.

    Attributes:
        key: Its weight.
        found: How many channels it reads in the file.
        own: How many it reads here.
    """

    key: str
    found: int
    own: int

    def __str__(self) -> str:
        how = (
            'the sum over R, G, B'
            if self.own == 1
            else f'R, G, B repeated, times {self.found}/{self.own}'
        )
        return f'{self.key} adapted from {self.found} image channels to {self.own} ({how})'


def adapted(weight: Tensor, channels: int) -> Tensor:
    """A convolution of RGB images, (O, 3, kh, kw), for images of ``channels``: (O, channels, kh, kw)."""
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    order = [i % RGB for i in range(channels)]
    return (weight.float()[:, order] * (RGB / channels)).to(weight.dtype)


def adapt_channels(
    state: MutableMapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Adapted, ...]:
    """Adapt the convolutions of a state dict that read RGB to those of a model, in place.

    No other layer of a network has three inputs, so they are told by their shape: four dimensions, of
    which the second differs and is 3 in the file.

    Args:
        state: A state dict with the names of the model.
        own: That of the model.

    Returns:
        What was adapted.
    """
    found = [
        Adapted(key, RGB, own[key].shape[1])
        for key, value in state.items()
        if key in own
        and value.ndim == 4
        and value.shape[1] == RGB
        and reads_other_channels(value.shape, own[key].shape)
    ]
    for key, _, channels in found:
        state[key] = adapted(state[key], channels)
    return tuple(found)


def reads_other_channels(found: Sequence[int], own: Sequence[int]) -> bool:
    """Whether two shapes are those of convolutions that differ in their input channels alone."""
    if len(found) != 4 or len(own) != 4:
        return False
    return found[1] != own[1] and (found[0], *found[2:]) == (own[0], *own[2:])
