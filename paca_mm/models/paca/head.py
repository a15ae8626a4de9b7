"""The PaCa segmentation head: every pixel attends to one cluster per class."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.clusters import ClusterMaps
from ..common.fast_paths import (
    are_plain_layers,
    calls_only_forward,
    is_compiling,
)
from ..common.pointwise import as_linear, is_batch_norm, is_fixed_scale, is_pointwise, norm_act
from ..common.precision import without_autocast
from ..common.recompute import StatisticsKept
from ..common.tokens import as_image, as_tokens
from .clustering import assign, pool

_BATCH_NORM = {'type': 'BN', 'requires_grad': True}


@MODELS.register_module()
class PaCaHead(BaseDecodeHead):
    """PaCa segmentation head, for mmseg's stock ``EncoderDecoder``.

    `PaCa-ViT: Learning Patch-to-Cluster Attention in Vision Transformers
    <https://arxiv.org/abs/2203.11987>`_, segmentation head. The clusters are the classes: a
    clustering network scores every position for every class, the softmax of these scores *over the
    positions* pools one token per class, and every position attends to the tokens. The scores are
    supervised like the logits, so that cluster l learns to be class l.

    With X the concatenation of all levels at the size of the first one, N positions::

        X_i    = resize(ConvNormAct_i(level i))                       (B, D, H, W) each
        q      = ConvNormAct(X)                                       (B, N, D)
        s      = Conv(ConvNormAct(X)),   z = softmax_N(s)             (B, L, N)
        c      = z X,   k, v = NormAct(Linear(c)) each                (B, L, nD), (B, L, D)
        logits = Conv(Dropout(ConvNormAct(softmax_L(q k^T) v)))       (B, L, H, W)

    Three equalities, exact but for rounding, keep X from ever being made and most products small:

    - a 1x1 convolution commutes with bilinear resizing, so ``Conv(X)`` is the sum of the resized
      ``Conv_i(level i)``, each with its slice of the weight, at the level's own resolution;
    - resizing is a linear map R, so ``z (R x) = (z R) x``: the assignment is brought to the size of
      the level, not the level to the size of the assignment;
    - attention weights sum to 1, so the convolution after the attention is applied to the L values
      instead of the N results.

    Args:
        in_channels: Channels of the levels, in the order of ``in_index``; a number for one level.
        channels: D.
        num_classes: Number of classes, 2 or more, and of clusters.
        in_index: The levels to read, out of those that the backbone (or neck) returns; the first
            sets the size of the logits. Default: the first ``len(in_channels)``.
        cluster_loss_weight: Weight of the losses on the cluster scores, over ``loss_decode``'s own.
        with_cp: Keep fewer intermediate results while training and compute them again in the backward
            pass: same numbers, a quarter less memory of the head for 5 to 10 % more of its time.
        norm_cfg: Of every norm, those of k and v included; None for none.
        kwargs: As for every mmseg decode head: ``loss_decode``, ``sampler``, ``ignore_index``,
            ``dropout_ratio``, ``align_corners``, ``out_channels``, ``threshold``, ``act_cfg``,
            ``init_cfg``. With ``out_channels=1`` (binary, by sigmoid) there are still two clusters;
            the difference of their scores is what the loss sees.

    Raises:
        UserError: (a ValueError) An argument does not fit; at the first forward pass, the feature
            maps do not have ``in_channels``. The message says what was found and what to change.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int = 256,
        *,
        num_classes: int,
        in_index: int | Sequence[int] | None = None,
        cluster_loss_weight: float = 0.4,
        with_cp: bool = True,
        norm_cfg: dict | None = _BATCH_NORM,
        **kwargs: Any,
    ) -> None:
        in_channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        if in_index is None:
            in_index = range(len(in_channels))
        in_index = [in_index] if isinstance(in_index, int) else list(in_index)
        _check_arguments(in_channels, in_index, num_classes, cluster_loss_weight, kwargs)
        kwargs['input_transform'] = 'multiple_select'
        super().__init__(
            in_channels,
            channels,
            num_classes=num_classes,
            in_index=in_index,
            norm_cfg=norm_cfg,
            **kwargs,
        )
        self.cluster_loss_weight = cluster_loss_weight
        self.with_cp = with_cp

        def pointwise(inputs: int, **kwargs: Any) -> ConvModule:
            return ConvModule(
                inputs, channels, 1, norm_cfg=norm_cfg, act_cfg=self.act_cfg, **kwargs
            )

        self.convs = nn.ModuleList(pointwise(c) for c in in_channels)
        width = len(in_channels) * channels  # of X
        self.q = nn.Sequential(pointwise(width))
        self.clustering = nn.Sequential(pointwise(width), nn.Conv2d(channels, num_classes, 1))
        self.k = _token_layer(width, channels, norm_cfg, self.act_cfg)
        self.v = _token_layer(width, channels, norm_cfg, self.act_cfg)
        self.proj = pointwise(channels, inplace=False)  # the attention's backward reads its result

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps -> logits.

        Args:
            inputs: All maps of the backbone, (B, C_i, H_i, W_i); any memory format, but
                channels-last ones are read without a copy.

        Returns:
            (B, out_channels, H, W), H and W those of the first level.
        """
        return self._forward(inputs)[0]

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: Any) -> dict:
        """Every configured loss, on the logits and again on the cluster scores.

        Returns:
            What mmseg's heads return, ``loss_ce`` and ``acc_seg`` say, and the same of the cluster
            scores under ``cluster_loss_ce`` and ``cluster_acc_seg``, the losses times
            ``cluster_loss_weight``.
        """
        logits, scores = self._forward(inputs)
        # Losses read planes: one copy here saves them one at the size of the image.
        losses = self.loss_by_feat(logits.contiguous(), batch_data_samples)
        for name, value in self.loss_by_feat(scores.contiguous(), batch_data_samples).items():
            weight = 1 if name == 'acc_seg' else self.cluster_loss_weight
            losses[f'cluster_{name}'] = value * weight
        return losses

    def class_clusters(self, inputs: Sequence[Tensor]) -> ClusterMaps:
        """What the cluster of each class is made of, and how every position reads them.

        Args:
            inputs: As for :meth:`forward`.

        Returns:
            ``assignment`` (B, num_classes, H, W) and ``attention`` (B, 1, H, W, num_classes), H and W
            those of the first level.
        """
        levels = self._transform_inputs(inputs)
        levels = [layer(x) for layer, x in zip(self.convs, levels, strict=True)]
        query, clusters, scores = self._on_x(levels)
        z = assign(as_tokens(scores).flatten(1, 2)).unflatten(2, scores.shape[2:])
        attention = (query.flatten(1, 2) @ self.k(clusters).transpose(1, 2)).softmax(2)
        return ClusterMaps(0, 0, z, attention.unflatten(1, query.shape[1:3]).unsqueeze(1))

    def _forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps -> logits and cluster scores, both (B, out_channels, H, W)."""
        levels = self._transform_inputs(inputs)
        # No strict: torch 2.1 cannot compile it.
        levels = [self._convolve(layer, x) for layer, x in zip(self.convs, levels)]  # noqa: B905
        run = self._mixed_first if self._can_mix_first() else self._one_by_one
        feat, scores = run(levels)
        del levels  # the largest tensors; what follows does not need them
        logits = self.cls_seg(feat)
        if self.out_channels == 1 and self.num_classes == 2:
            scores = scores[:, 1:] - scores[:, :1]  # sigmoid of it = softmax of the two
        return logits, scores

    def _can_mix_first(self) -> bool:
        """Whether the layers that read X may be taken apart; see :func:`is_pointwise`."""
        return (
            is_pointwise(self.q[0])
            and is_pointwise(self.clustering[0])
            and all(map(calls_only_forward, (self.q, self.clustering, self.clustering[1])))
        )

    def _one_by_one(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What ``conv_seg`` reads, (B, D, H, W), and the scores, by calling every layer on X."""
        query, clusters, scores = self._on_x(levels)
        return self._attend(query, clusters), scores

    def _on_x(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, W, D), cluster tokens (B, L, nD) and scores (B, L, H, W)."""
        size = levels[0].shape[2:]
        x = torch.cat([self._resize(level, size) for level in levels], 1)
        scores = self.clustering(x)
        clusters = pool(assign(as_tokens(scores).flatten(1, 2)), as_tokens(x).flatten(1, 2))
        return as_tokens(self.q(x)), clusters, scores

    def _mixed_first(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same without X: the levels are resized after the convolution that would read it."""
        scores, clusters = self._recomputed(
            self.clustering[0], self._cluster, self._mix(self.clustering[0], levels), *levels
        )
        query = norm_act(self.q[0], self._mix(self.q[0], levels))
        return self._attend(as_tokens(query), clusters), scores

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Select the levels and see that they are what the head was built for."""
        if not all(-len(inputs) <= i < len(inputs) for i in self.in_index):
            raise UserError(
                f'PaCaHead reads levels in_index={self.in_index}, but it was given {len(inputs)} '
                "feature map(s): change in_index, or the backbone's (neck's) out_indices."
            )
        levels = [inputs[i] for i in self.in_index]
        found = [x.shape[1] for x in levels]
        if found != self.in_channels:
            raise UserError(
                f'PaCaHead was built for in_channels={self.in_channels}, but the feature maps '
                f'in_index={self.in_index} have {found} channels: set in_channels={found} in the '
                'head, or choose the backbone that fits.'
            )
        return levels

    def _convolve(self, layer: nn.Module, x: Tensor) -> Tensor:
        """``layer(x)``, (B, C_i, H_i, W_i) -> (B, D, H_i, W_i), as a product of tokens if it may."""
        if not is_pointwise(layer):
            return layer(x)

        def product(x: Tensor) -> Tensor:
            return norm_act(layer, as_image(F.linear(as_tokens(x), *as_linear(layer))))

        return self._recomputed(layer, product, x)

    def _mix(self, layer: ConvModule, levels: list[Tensor]) -> Tensor:
        """The convolution of ``layer(X)``, (B, D, H, W), from the levels (B, D, H_i, W_i)."""
        size = levels[0].shape[2:]
        weight, bias = as_linear(layer)
        weights = weight.split(self.channels, 1)
        out = F.linear(as_tokens(levels[0]), weights[0], bias)
        for level, weight in zip(levels[1:], weights[1:]):  # noqa: B905
            out += as_tokens(self._resize(as_image(F.linear(as_tokens(level), weight)), size))
        return as_image(out)

    def _cluster(self, mixed: Tensor, *levels: Tensor) -> tuple[Tensor, Tensor]:
        """The rest of the clustering: scores (B, num_classes, H, W), cluster tokens (B, L, nD)."""
        scores = self.clustering[1](norm_act(self.clustering[0], mixed))
        return scores, self._pool(scores, levels)

    def _pool(self, scores: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """``softmax_N(scores) X``, the cluster tokens (B, L, nD), from the levels."""
        _batch, _, height, width = scores.shape
        z = assign(as_tokens(scores).flatten(1, 2)).transpose(1, 2)
        z = z.unflatten(1, (height, width))  # B, H, W, L
        tokens = []
        for level in reversed(levels):  # the largest last: recomputing stops before it
            x = as_tokens(level).flatten(1, 2)
            tokens.append(
                pool(self._resize_adjoint(z, level.shape[2:]).flatten(1, 2).transpose(1, 2), x)
            )
        return torch.cat(tokens[::-1], -1)

    def _recomputed(self, layer: ConvModule, function: Callable, *args: Tensor) -> Any:
        """``function(*args)``, computed again in the backward pass instead of being kept.

        Args:
            layer: The one whose norm is part of the function.
        """
        if not (self.with_cp and torch.is_grad_enabled() and _pays_twice(layer)) or is_compiling():
            return function(*args)
        return cp.checkpoint(
            function,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing random in it
            context_fn=lambda: (nullcontext(), StatisticsKept([layer.norm])),
        )

    def _attend(self, q: Tensor, clusters: Tensor) -> Tensor:
        """Attention from the queries (B, H, W, D) to the cluster tokens (B, L, nD), (B, D, H, W).

        ``proj`` is in it, its convolution applied to the values.
        """
        value = self.v(clusters)
        split = is_pointwise(self.proj)
        if split:
            value = F.linear(value, *as_linear(self.proj))
        query, key = q.flatten(1, 2), self.k(clusters)  # B, N, D and B, L, D
        if torch.onnx.is_in_onnx_export():  # torch 2.1's exporter does not know `scale`
            out = (query @ key.transpose(1, 2)).softmax(-1) @ value
        else:
            out = F.scaled_dot_product_attention(
                query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), scale=1.0
            )
        image = as_image(out.view_as(q))
        return norm_act(self.proj, image) if split else self.proj(image)

    def cls_seg(self, feat: Tensor) -> Tensor:
        """(B, D, H, W) -> logits (B, out_channels, H, W), with dropout of whole channels.

        A dropped channel of a sample is a zero in the sample's own weight: the same numbers, drawn
        from the same random stream, without a second map in memory.
        """
        if not self.training or self.dropout is None:
            return self.conv_seg(feat)
        if not self._can_drop_weights():
            return super().cls_seg(feat)
        kept = self.dropout(feat.new_ones(*feat.shape[:2], 1, 1)).flatten(1)  # B, D
        weight = self.conv_seg.weight.flatten(1) * kept.unsqueeze(1)  # B, out_channels, D
        tokens = as_tokens(feat)
        return as_image(
            torch.baddbmm(
                self.conv_seg.bias, tokens.flatten(1, 2), weight.transpose(1, 2)
            ).unflatten(1, tokens.shape[1:3])
        )

    def _can_drop_weights(self) -> bool:
        dropout, conv = self.dropout, self.conv_seg
        ours = type(dropout) is nn.Dropout2d and calls_only_forward(dropout)
        return ours and are_plain_layers(conv) and conv.bias is not None

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if x.shape[2:] == size:
            return x
        return F.interpolate(x, size, mode='bilinear', align_corners=self.align_corners)

    def _resize_adjoint(self, z: Tensor, size: Sequence[int]) -> Tensor:
        """z (B, H, W, L) -> z R (B, h, w, L), R being the resizing from h x w to H x W."""
        batch, height, width, _ = z.shape
        if (height, width) == tuple(size):
            return z
        with without_autocast(z):  # see assign
            rows = self._resize_matrix(size[0], z, height).expand(batch, -1, -1)  # B, h, H
            z = torch.bmm(rows, z.flatten(2)).unflatten(2, (width, -1)).flatten(0, 1)  # B*h, W, L
            columns = self._resize_matrix(size[1], z, width).expand(len(z), -1, -1)  # B*h, w, W
            return torch.bmm(columns, z).unflatten(0, (batch, -1))

    def _resize_matrix(self, small: int, like: Tensor, large: int) -> Tensor:
        """(small, large): linear resizing of a line of ``small`` points to ``large``."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        eye = torch.eye(small, dtype=dtype, device=like.device).unsqueeze(0)
        lines = F.interpolate(eye, large, mode='linear', align_corners=self.align_corners)[0]
        return lines.to(like.dtype)


class _AsImage(nn.Module):
    """Tokens (B, L, C) -> (B, C, L, 1), the shape that every norm of a ``norm_cfg`` takes."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unsqueeze(-1).contiguous()


class _AsTokens(nn.Module):
    """(B, C, L, 1) -> tokens (B, L, C), in the order that the fast kernels of attention ask for."""

    def forward(self, image: Tensor) -> Tensor:
        return image.squeeze(-1).transpose(1, 2).contiguous()


def _token_layer(
    in_channels: int, channels: int, norm_cfg: dict | None, act_cfg: dict | None
) -> nn.Sequential:
    """Linear, norm and activation of tokens; the indices of the first and the norm are official."""
    return nn.Sequential(
        nn.Linear(in_channels, channels),
        _AsImage(),
        build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity(),
        build_activation_layer(act_cfg) if act_cfg else nn.Identity(),
        _AsTokens(),
    )


def _pays_twice(layer: ConvModule) -> bool:
    """Whether a layer may run again in the backward pass, and saves memory if it does.

    Where no norm is applied, the activation overwrites what recomputing would start from. A hook
    fires once in a step, and only of torch's own BatchNorm is it known how to count a batch once.
    """
    norm = layer.norm if layer.with_norm and not is_fixed_scale(layer) else None
    return (
        norm is not None
        and (is_batch_norm(norm) or not isinstance(norm, _BatchNorm))
        and calls_only_forward(norm)
        and (not layer.with_activation or calls_only_forward(layer.activate))
    )


def _check_arguments(
    in_channels: Sequence[int],
    in_index: Sequence[int],
    num_classes: int,
    cluster_loss_weight: float,
    others: dict,
) -> None:
    if not in_channels or len(in_channels) != len(in_index):
        raise UserError(
            f'in_channels={in_channels} and in_index={in_index} must list the same number of '
            'levels, at least one.'
        )
    if num_classes < 2:
        raise UserError(
            f'num_classes={num_classes}: the clusters are the classes, and attention to a single '
            'cluster gives every pixel the same answer. Count the background as a class: '
            'num_classes=2 (with out_channels=1 for a single logit).'
        )
    if cluster_loss_weight < 0:
        raise UserError(f'cluster_loss_weight={cluster_loss_weight} must be 0 or more.')
    if others.get('input_transform', 'multiple_select') != 'multiple_select':
        raise UserError(
            f'input_transform={others["input_transform"]!r}: PaCaHead resizes the levels itself; '
            'leave input_transform out.'
        )
    if others.get('conv_cfg') is not None:
        raise UserError(
            f'conv_cfg={others["conv_cfg"]}: PaCaHead needs plain convolutions; leave conv_cfg out.'
        )
