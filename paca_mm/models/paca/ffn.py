"""The feed-forward network of a block: linear, depthwise 3x3 with a shortcut around it, GELU, linear."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.fast_paths import are_plain_layers
from ..common.tokens import as_image, as_tokens
from . import ffn_pieces


class ConvFFN(nn.Module):
    """Linear, depthwise 3x3 with a shortcut around it, GELU, linear."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # Half precision would add up the gradients of the parameters piece by piece, and round each.
        if x.dtype in (torch.float32, torch.float64) and self.can_add(x):
            return ffn_pieces.forward(self, x)
        h = as_image(self.fc1(x))
        if are_plain_layers(self.dwconv) and self.dwconv.bias is not None:
            kernel = ffn_pieces.with_shortcut(self.dwconv.weight)
            h = ffn_pieces.depthwise(h, kernel, self.dwconv.bias)
        else:
            h = h + self.dwconv(h)
        return self.fc2(F.gelu(as_tokens(h)))

    def can_add(self, x: Tensor) -> bool:
        """Whether :meth:`add_to` may stand in for :meth:`forward`, gradients aside."""
        return ffn_pieces.can_run(self, x) and type(self).forward is ConvFFN.forward

    def add_to(self, out: Tensor, norm: Callable[[Tensor], Tensor]) -> None:
        """``out += forward(norm(out))`` in place (``out`` is contiguous), where :meth:`can_add` says so
        and no gradient is wanted.
        """
        ffn_pieces.add_to(self, out, norm)
