"""The ViTTM block: read the memory, process, write to the memory."""

import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from .linear_attention import LinearAttention
from .vit import Attention, Mlp, layer_norm


class ViTTMBlock(nn.Module):
    """One step of the machine, on the memory M and the process tokens P::

        M, P = read_norm(M), read_norm(P)      one norm for both, and it replaces them
        P = P + read(P from M)
        P = P + attn(norm1(P));  P = P + mlp(norm2(P))
        M, P = write_norm(M), write_norm(P)
        M = M + write(M from P)

    Args:
        embed_dims: C.
        num_heads: h.
        mlp_ratio: Hidden channels of the feed-forward network over C.
        drop_path_rate: Probability to drop what a sample reads, or writes, while training. The
            branches of the ViT block are never dropped.
        writes: Whether the memory is written at all; a model that returns nothing of its last memory
            has no use for it.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float = 4,
        drop_path_rate: float = 0.0,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.read_norm = layer_norm(embed_dims)
        self.read = LinearAttention(embed_dims, num_heads)
        self.norm1 = layer_norm(embed_dims)
        self.attn = Attention(embed_dims, num_heads)
        self.norm2 = layer_norm(embed_dims)
        self.mlp = Mlp(embed_dims, mlp_ratio)
        self.write_norm = layer_norm(embed_dims)
        self.write = LinearAttention(embed_dims, num_heads) if writes else None
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, memory: Tensor, process: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, (B, H', W', C) and (B, H, W, C) -> both.

        Without writing, the memory is returned as it was read.
        """
        memory, process = self.read_norm(memory), self.read_norm(process)
        process = process + self.drop_path(self.read(process, memory))
        process = process + self.attn(self.norm1(process))
        process = process + self.mlp(self.norm2(process))
        process = self.write_norm(process)
        if self.write is not None:
            memory = self.write_norm(memory)
            memory = memory + self.drop_path(self.write(memory, process))
        return memory, process
