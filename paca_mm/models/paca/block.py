"""The PaCa block: pre-norm attention, then the feed-forward network."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from ..common.fast_paths import calls_only_forward, runs_eagerly_on_cpu
from .downsample import layer_norm


class PaCaBlock(nn.Module):
    """x + attn(LN(x)), then x + mlp(LN(x)), of any attention and any feed-forward network.

    A part may also offer the sum, norm included, which takes less memory where no gradient is wanted;
    the block uses it if both do. ``can_add(x) -> bool`` says whether it may be used now, and it is
    ``attn.added_to(x, norm, z) -> (x + out, z)`` and ``mlp.add_to(x, norm)``, in place.

    Args:
        embed_dims: C.
        attn: Called as ``attn(x, z) -> (out, z)``: patches (B, H, W, C), the assignment (B, M, N) or
            None, and both again; :class:`PaCaAttention`.
        mlp: Called as ``mlp(x) -> out``, (B, H, W, C) each; :class:`ConvFFN`.
        drop_path_rate: Probability to drop either branch of a sample while training.
        norm_layer: Makes a norm of C channels.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = layer_norm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(embed_dims)
        self.attn: Any = attn
        self.norm2 = norm_layer(embed_dims)
        self.mlp: Any = mlp
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Patches (B, H, W, C) and an assignment (B, M, N) -> both, as they leave the block."""
        if not torch.is_grad_enabled() and self._parts_can_add(x):  # the same, with less memory
            x, z = self.attn.added_to(x, self.norm1, z)
            self.mlp.add_to(x, self.norm2)
            return x, z
        out, z = self.attn(self.norm1(x), z)
        x = x + self.drop_path(out)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x, z

    def _parts_can_add(self, x: Tensor) -> bool:
        if not runs_eagerly_on_cpu(x):
            return False
        # Another norm might hand on its input, which is about to be overwritten, or look at more than
        # one patch.
        for norm in (self.norm1, self.norm2):
            if type(norm) is not nn.LayerNorm or not calls_only_forward(norm):
                return False
        drops = self.drop_path.training and not isinstance(self.drop_path, nn.Identity)
        # Of the class: a wrapper may hand on every attribute of what it wraps.
        return not drops and all(
            hasattr(type(part), 'can_add') and calls_only_forward(part) and part.can_add(x)
            for part in (self.mlp, self.attn)
        )
