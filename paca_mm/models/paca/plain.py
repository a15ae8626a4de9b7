"""A plain reading of PaCa: the yardstick of the benchmark, with the weights and answers of ours.

Written as one would from the paper: tokens (B, N, C) and images (B, C, H, W), a copy wherever one
becomes the other, attention weights that are there to be seen, and every level of the head resized
before anything is mixed. Nothing is slow on purpose.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import PaCaViT
from .block import PaCaBlock
from .clustering import ConvClustering


def _to_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2).contiguous()


def _to_image(tokens: Tensor, size: Sequence[int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size).contiguous()


class PlainPaCaViT(PaCaViT):
    """:class:`PaCaViT` in the plain reading: same arguments, same state dict, same answers."""

    def _forward(self, x: Tensor, watch: Callable[..., None] | None = None) -> tuple[Tensor, ...]:
        x = self.patch_embed.proj(x)
        size = x.shape[2:]
        x = self.patch_embed.norm(_to_tokens(x))
        maps, given = None, None
        if self.teacher is not None:
            maps, given = self.teacher(_to_image(x, size).permute(0, 2, 3, 1))
        outs = []
        for i in range(self.num_stages):
            if i:
                transition = getattr(self, f'transition{i}')
                x = transition.proj(_to_image(x, size))
                size = x.shape[2:]
                x = transition.norm(_to_tokens(x))
            z = None if given is None else given[i]
            for j, block in enumerate(getattr(self, f'stage{i + 1}')):
                before = x if watch is not None else None
                x, z = _block(block, x, z, size)
                if watch is not None:
                    watch(i, j, block, before.unflatten(1, size), z)  # type: ignore[union-attr]
            if maps is not None:
                x = x + maps[i].flatten(1, 2)
            x = getattr(self, f'norm{i + 1}')(x)
            if i in self.out_indices:
                outs.append(_to_image(x, size))
        return tuple(outs)


def _block(
    block: PaCaBlock, x: Tensor, z: Tensor | None, size: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    attn, mlp = block.attn, block.mlp
    patches = block.norm1(x)  # B, N, C
    clusters = patches
    if attn.num_clusters:
        if attn.clustering is not None:
            z = _scores(attn.clustering, patches, size).softmax(-1)  # B, M, N
        clusters = attn.cluster_norm(z @ patches)  # B, M, C
    out = _attend(attn.q(patches), attn.k(clusters), attn.v(clusters), attn.num_heads)
    x = x + block.drop_path(attn.proj(out))

    h = _to_image(mlp.fc1(block.norm2(x)), size)
    h = h + mlp.dwconv(h)
    return x + block.drop_path(mlp.fc2(F.gelu(_to_tokens(h)))), z


def _scores(network: Any, patches: Tensor, size: Sequence[int]) -> Tensor:
    if not isinstance(network, ConvClustering):
        hidden = F.gelu(network.fc(patches)) if hasattr(network, 'fc') else patches
        return network.to_clusters(hidden).transpose(1, 2)
    h = F.gelu(network.dwconv(_to_image(patches, size)))
    return network.to_clusters(F.gelu(network.pwconv(h))).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)


def plain_head(head: Any) -> Any:
    """Make a ``PaCaHead`` compute in the plain reading; returns it."""

    def forward(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        levels = [conv(x) for conv, x in zip(head.convs, head._transform_inputs(inputs))]  # noqa: B905
        size = levels[0].shape[2:]
        x = torch.cat([head._resize(level, size) for level in levels], 1)  # B, nD, H, W
        scores = head.clustering(x)
        clusters = scores.flatten(2).softmax(-1) @ _to_tokens(x)  # B, L, nD
        q = _to_tokens(head.q(x))
        weights = (q @ head.k(clusters).transpose(1, 2)).softmax(-1)
        out = head.proj(_to_image(weights @ head.v(clusters), size))
        if head.dropout is not None:
            out = head.dropout(out)
        return head.conv_seg(out), scores

    target: Any = head
    target._forward = forward
    return head
