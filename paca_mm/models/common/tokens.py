"""Feature maps as tokens and as images: two views of the same memory.

A feature map travels as tokens in image order, (B, H, W, C). That is also what a channels-last
(B, C, H, W) tensor looks like in memory, so linear layers, norms and attention read it as it is and
convolutions read its permuted view: nothing is ever copied between two layouts.
"""

from torch import Tensor

#: Bytes of a piece where a large map is made in pieces, on a CPU: memory that stays in the cache.
#: 8 MiB was the best of 1 to 16 for the feed-forward network.
PIECE_BYTES = 8 * 2**20


def as_image(tokens: Tensor) -> Tensor:
    """Read (B, H, W, C) tokens as a channels-last (B, C, H, W) image, without a copy."""
    return tokens.permute(0, 3, 1, 2)


def as_tokens(image: Tensor) -> Tensor:
    """Read a (B, C, H, W) image as (B, H, W, C) tokens, without a copy if it is channels-last."""
    return image.permute(0, 2, 3, 1).contiguous()


def add_product(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """``out += x @ weight.T`` of tokens (..., C), in place; ``out`` is contiguous."""
    out.view(-1, out.shape[-1]).addmm_(x.flatten(0, -2), weight.t())
