"""The PaCa block: pre-norm attention, then the feed-forward network."""

import torch
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from ..common.fast_paths import is_bare, is_unwatched
from .attention import PaCaAttention
from .downsample import NORM_EPS
from .ffn import ConvFFN, add_product


class PaCaBlock(nn.Module):
    """x + PaCa(LN(x)), then x + FFN(LN(x)).

    Args:
        embed_dims: C.
        num_heads: h.
        mlp_ratio: Width of the feed-forward network over C.
        num_clusters: M, or 0 for plain self-attention.
        clustering: See :class:`PaCaAttention`.
        drop_path_rate: Probability to drop either branch of a sample while training.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        num_clusters: int,
        clustering: nn.Module | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.attn = PaCaAttention(embed_dims, num_heads, num_clusters, clustering)
        self.norm2 = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.mlp = ConvFFN(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Patches (B, H, W, C) and an assignment (B, M, N) -> both, as they leave the block."""
        if not torch.is_grad_enabled() and self._in_place(x):  # the same, with less memory
            out, z = self.attn.attend(self.norm1(x), z)
            x = (x + self.attn.proj.bias).contiguous()
            add_product(x, out, self.attn.proj.weight)
            self.mlp.add_to(x, self.norm2(x))
            return x, z
        out, z = self.attn(self.norm1(x), z)
        x = x + self.drop_path(out)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x, z

    def _in_place(self, x: Tensor) -> bool:
        """Whether the sums of the block may be formed in place where no gradient is wanted."""
        if type(self.mlp) is not ConvFFN or not self.mlp.in_pieces(x):
            return False
        drops = self.drop_path.training and not isinstance(self.drop_path, nn.Identity)
        called = is_bare(self.attn.proj) and is_unwatched(self.attn) and is_unwatched(self.mlp)
        return not drops and called and type(self.attn) is PaCaAttention
