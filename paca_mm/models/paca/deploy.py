"""PaCa-ViT and its head as a graph that onnxruntime runs fast: the same numbers, other operations.

An exported graph is run node by node, and each node reads and writes its whole map. So what counts,
besides the products, is how often a map passes through memory, and how often its layout changes:

- the feed-forward network is a chain of convolutions, linear layers among them, whose biases cost no
  pass of their own, and the shortcut around its depthwise convolution lies in the kernel;
- the clustering network ends as (B, M, H, W), so that its softmax runs along the memory;
- the scale of the attention lies in the layer of the queries;
- the head mixes its levels before it resizes them, as :mod:`.head` says, BatchNorms in their
  convolutions.

Written for onnxruntime's kernels on a CPU, which keep convolutions in blocks of channels; nothing in it
is an operation that others lack.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..common.deploy import LinearMaps, are_torchs_own, as_convolution, constant, folded
from ..common.tokens import as_image, as_tokens
from .attention import PaCaAttention
from .clustering import ConvClustering, LinearClustering, MlpClustering
from .ffn import ConvFFN
from .ffn_pieces import with_shortcut
from .teacher import ClusteringTeacher


def deployed(model: nn.Module, form: str) -> None:
    """Exchange the parts of a model, in place, for those that make a fast graph.

    Layers that somebody replaced (LoRA, quantised) stay as they are, with all that reads them.

    Args:
        model: In eval mode; it returns what it returned before, up to rounding.
        form: ``'fast'``, or ``'linear'``, where linear layers stay matrix products: the only ones that
            onnxruntime's dynamic quantisation makes faster.
    """
    head = sys.modules.get('paca_mm.models.paca.head')  # it needs mmseg
    for module in list(model.modules()):
        if type(module) is ClusteringTeacher:
            module.__class__ = _Teacher
        for name, child in module.named_children():
            if type(child) is ConvFFN and are_torchs_own(child):
                setattr(module, name, _LinearFFN(child) if form == 'linear' else _FFN(child))
            elif type(child) is PaCaAttention and are_torchs_own(child):
                setattr(module, name, _Attention(child))
            elif head is not None and type(child) is head.PaCaHead and _can_mix(child):
                setattr(module, name, _Head(child))


class _FFN(nn.Module):
    """:class:`.ffn.ConvFFN` as three convolutions."""

    def __init__(self, network: ConvFFN) -> None:
        super().__init__()
        self.fc1, self.fc2 = as_convolution(network.fc1), as_convolution(network.fc2)
        self.dwconv = _without_shortcut(network.dwconv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        h = F.gelu(self.dwconv(self.fc1(as_image(x))))
        return self.fc2(h).permute(0, 2, 3, 1)


class _LinearFFN(nn.Module):
    """The same as two linear layers and one convolution."""

    def __init__(self, network: ConvFFN) -> None:
        super().__init__()
        self.fc1, self.fc2 = network.fc1, network.fc2
        self.dwconv = _without_shortcut(network.dwconv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.fc2(F.gelu(self.dwconv(as_image(self.fc1(x))).permute(0, 2, 3, 1)))


def _without_shortcut(conv: nn.Conv2d) -> nn.Conv2d:
    """The depthwise convolution with its shortcut in the kernel."""
    conv.weight = constant(with_shortcut(conv.weight.detach()))
    return conv


class _Scores(nn.Module):
    """The three clustering networks as convolutions, (B, H, W, C) -> scores (B, M, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if isinstance(network, ConvClustering):
            layers = [network.dwconv, nn.GELU(), network.pwconv, nn.GELU()]
        elif isinstance(network, MlpClustering):
            layers = [as_convolution(network.fc), nn.GELU()]
        else:
            assert isinstance(network, LinearClustering)
        last: Any = network.to_clusters
        self.layers = nn.Sequential(*layers, as_convolution(last))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(as_image(x))


def _assign(scores: Tensor) -> Tensor:
    """Scores (B, M, H, W) -> the assignment (B, M, N)."""
    return scores.flatten(2).softmax(-1)


class _Attention(nn.Module):
    """:class:`.attention.PaCaAttention`."""

    def __init__(self, attention: PaCaAttention) -> None:
        super().__init__()
        self.num_heads, self.num_clusters = attention.num_heads, attention.num_clusters
        self.clustering = attention.clustering and _Scores(attention.clustering)
        if self.num_clusters:
            self.cluster_norm = attention.cluster_norm
        self.q, self.k, self.v = attention.q, attention.k, attention.v
        self.proj = attention.proj
        self.head_dims = self.q.out_features // self.num_heads
        scale = self.head_dims**-0.5
        self.q.weight = constant(self.q.weight.detach() * scale)
        if self.q.bias is not None:
            self.q.bias = constant(self.q.bias.detach() * scale)

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`.attention.PaCaAttention.forward`."""
        patches = clusters = x.flatten(1, 2)
        if self.clustering is not None:
            z = _assign(self.clustering(x))
        if self.num_clusters:
            assert z is not None
            clusters = self.cluster_norm(z @ patches)  # B, M, C
        batch = x.shape[0]
        q, k, v = (
            self._heads(self.q(patches), batch),
            self._heads(self.k(clusters), batch),
            self._heads(self.v(clusters), batch),
        )
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2)).reshape(x.shape), z

    def _heads(self, t: Tensor, batch: int) -> Tensor:
        """(B, N, C) -> (B, h, N, d)."""
        return t.reshape(batch, -1, self.num_heads, self.head_dims).transpose(1, 2)


class _Teacher(ClusteringTeacher):
    """The teacher whose assignments are made along the memory."""

    def _assign(self, scores: Tensor) -> Tensor:
        return _assign(scores)


def _can_mix(head: Any) -> bool:
    """Whether the head's layers are what it is made of as a rule: plain convolutions, BatchNorms."""
    layers = [*head.convs, head.q[0], head.clustering[0], head.proj]
    tokens = [part[i] for part in (head.k, head.v) for i in (0, 2)]
    return all(folded(layer) is not None for layer in layers) and are_torchs_own(
        nn.ModuleList([*tokens, head.conv_seg, head.clustering[1]])
    )


class _Head(nn.Module):
    """:class:`.head.PaCaHead` in its second form, which never makes the concatenation of the levels."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.in_index, self.channels = head.in_index, head.channels
        self.align_corners = head.align_corners
        #: What a host's segmentor asks its head for.
        self.num_classes, self.out_channels = head.num_classes, head.out_channels
        self.threshold = head.threshold
        self.act = head.convs[0].activate if head.convs[0].with_activation else nn.Identity()
        convs: list[Any] = [folded(layer) for layer in head.convs]
        self.convs = nn.ModuleList(convs)
        # One convolution of each level for q and the clustering, which both read X.
        q, scores = folded(head.q[0]), folded(head.clustering[0])
        assert q is not None
        assert scores is not None
        weight = torch.cat([q.weight, scores.weight]).detach().split(self.channels, 1)
        self.mixing = nn.ModuleList()
        for part in weight:
            conv = nn.Conv2d(self.channels, 2 * self.channels, 1, bias=not self.mixing).to(part)
            conv.weight = constant(part)
            if not self.mixing:
                conv.bias = constant(torch.cat([q.bias, scores.bias]).detach())  # type: ignore[list-item]
            self.mixing.append(conv)
        self.to_clusters = head.clustering[1]
        self.k, self.v = head.k, head.v
        self.proj = folded(head.proj)
        self.conv_seg = head.conv_seg
        self.resizing = LinearMaps(self.align_corners)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """See :meth:`.head.PaCaHead.forward`."""
        levels = [
            self.act(conv(inputs[i])) for i, conv in zip(self.in_index, self.convs, strict=True)
        ]
        size = levels[0].shape[2:]
        mixed = self.mixing[0](levels[0])
        for level, conv in zip(levels[1:], self.mixing[1:], strict=True):
            mixed = mixed + F.interpolate(
                conv(level), size, mode='bilinear', align_corners=self.align_corners
            )
        q, hidden = self.act(mixed).split(self.channels, 1)
        scores = self.to_clusters(hidden)
        z = _assign(scores).reshape(scores.shape)  # B, L, H, W
        tokens = []
        for i, level in enumerate(levels):
            part = z if not i else self.resizing.adjoint(z, level.shape[2:])
            tokens.append(part.flatten(2) @ level.flatten(2).transpose(1, 2))
        clusters = torch.cat(tokens, -1)
        query, key = as_tokens(q).flatten(1, 2), self.k(clusters)
        assert self.proj is not None
        value = F.linear(self.v(clusters), self.proj.weight.flatten(1), self.proj.bias)
        out = (query @ key.transpose(1, 2)).softmax(-1) @ value
        feat = self.act(out.transpose(1, 2).reshape(q.shape[0], self.channels, *size))
        return self.conv_seg(feat)

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: list[dict], *_: Any) -> Tensor:
        """Logits at the size of the images, as a host's segmentor asks for them."""
        size = batch_img_metas[0]['img_shape']
        return F.interpolate(
            self.forward(inputs), size, mode='bilinear', align_corners=self.align_corners
        )
