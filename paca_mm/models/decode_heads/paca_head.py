"""The PaCa segmentation head: every pixel attends to one cluster per class."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..layers.clustering import assign, pool
from ..layers.downsample import as_picture, as_tokens


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
        in_channels: Union[int, Sequence[int]],
        channels: int = 256,
        *,
        num_classes: int,
        in_index: Union[int, Sequence[int], None] = None,
        cluster_loss_weight: float = 0.4,
        norm_cfg: Optional[dict] = dict(type='BN', requires_grad=True),  # noqa: B006 (never changed)
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

        def pointwise(inputs: int) -> ConvModule:
            return ConvModule(inputs, channels, 1, norm_cfg=norm_cfg, act_cfg=self.act_cfg)

        self.convs = nn.ModuleList(pointwise(c) for c in in_channels)
        width = len(in_channels) * channels  # of X
        self.q = nn.Sequential(pointwise(width))
        self.clustering = nn.Sequential(pointwise(width), nn.Conv2d(channels, num_classes, 1))
        self.k = _token_layer(width, channels, norm_cfg, self.act_cfg)
        self.v = _token_layer(width, channels, norm_cfg, self.act_cfg)
        self.proj = pointwise(channels)

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
        losses = self.loss_by_feat(logits, batch_data_samples)
        for name, value in self.loss_by_feat(scores, batch_data_samples).items():
            weight = 1 if name == 'acc_seg' else self.cluster_loss_weight
            losses[f'cluster_{name}'] = value * weight
        return losses

    def _forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps -> logits and cluster scores, both (B, out_channels, H, W)."""
        levels = [conv(x) for conv, x in zip(self.convs, self._transform_inputs(inputs))]
        scores = self.clustering[1](self._mix(self.clustering[0], levels))  # B, L, H, W
        clusters = self._pool(scores, levels)  # B, L, nD
        value = F.linear(self.v(clusters), *_as_linear(self.proj.conv))
        q = as_tokens(self._mix(self.q[0], levels))  # B, H, W, D
        out = F.scaled_dot_product_attention(
            q.flatten(1, 2).unsqueeze(1), self.k(clusters).unsqueeze(1), value.unsqueeze(1), scale=1.0
        )  # B, 1, N, D
        out = as_picture(out.view_as(q))
        logits = self.cls_seg(_norm_act(self.proj, out))
        if self.out_channels == 1 and self.num_classes == 2:
            scores = scores[:, 1:] - scores[:, :1]  # sigmoid of it = softmax of the two
        return logits, scores

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

    def _mix(self, layer: ConvModule, levels: list[Tensor]) -> Tensor:
        """``layer(X)``, (B, D, H, W), from the levels (B, D, H_i, W_i)."""
        size = levels[0].shape[2:]
        weights = layer.conv.weight.flatten(1).split(self.channels, 1)
        out = F.linear(as_tokens(levels[0]), weights[0], layer.conv.bias)
        for level, weight in zip(levels[1:], weights[1:]):
            out += as_tokens(self._resize(as_picture(F.linear(as_tokens(level), weight)), size))
        return _norm_act(layer, as_picture(out))

    def _pool(self, scores: Tensor, levels: list[Tensor]) -> Tensor:
        """``softmax_N(scores) X``, the cluster tokens (B, L, nD), from the levels."""
        batch, _, height, width = scores.shape
        z = assign(as_tokens(scores).flatten(1, 2)).mT.unflatten(1, (height, width))  # B, H, W, L
        tokens = []
        for level in levels:
            x = as_tokens(level).flatten(1, 2)
            tokens.append(pool(self._resize_adjoint(z, level.shape[2:]).flatten(1, 2).mT, x))
        return torch.cat(tokens, -1)

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if x.shape[2:] == size:
            return x
        return F.interpolate(x, size, mode='bilinear', align_corners=self.align_corners)

    def _resize_adjoint(self, z: Tensor, size: Sequence[int]) -> Tensor:
        """z (B, H, W, L) -> z R (B, h, w, L), R being the resizing from h x w to H x W."""
        batch, height, width, _ = z.shape
        if (height, width) == tuple(size):
            return z
        with torch.autocast(z.device.type, enabled=False):  # see assign
            rows = self._resize_matrix(size[0], z, height).expand(batch, -1, -1)  # B, h, H
            z = torch.bmm(rows, z.flatten(2)).unflatten(2, (width, -1)).flatten(0, 1)  # B*h, W, L
            columns = self._resize_matrix(size[1], z, width).expand(len(z), -1, -1)  # B*h, w, W
            return torch.bmm(columns, z).unflatten(0, (batch, -1))

    def _resize_matrix(self, small: int, like: Tensor, large: int) -> Tensor:
        """What linear resizing of a line from ``small`` to ``large`` points does, (small, large)."""
        eye = torch.eye(small, dtype=like.dtype, device=like.device).unsqueeze(0)
        return F.interpolate(eye, large, mode='linear', align_corners=self.align_corners)[0]


class _AsPicture(nn.Module):
    """Tokens (B, L, C) -> (B, C, L, 1), the shape that every norm of a ``norm_cfg`` takes."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mT.unsqueeze(-1)


class _AsTokens(nn.Module):
    """(B, C, L, 1) -> tokens (B, L, C)."""

    def forward(self, picture: Tensor) -> Tensor:
        return picture.squeeze(-1).mT


def _token_layer(
    in_channels: int, channels: int, norm_cfg: Optional[dict], act_cfg: Optional[dict]
) -> nn.Sequential:
    """Linear, norm and activation of tokens; the indices of linear and norm are the official ones."""
    return nn.Sequential(
        nn.Linear(in_channels, channels),
        _AsPicture(),
        build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity(),
        build_activation_layer(act_cfg) if act_cfg else nn.Identity(),
        _AsTokens(),
    )


def _norm_act(layer: ConvModule, x: Tensor) -> Tensor:
    """What a ``ConvModule`` does after its convolution."""
    if layer.with_norm:
        x = layer.norm(x)
    return layer.activate(x) if layer.with_activation else x


def _as_linear(conv: nn.Conv2d) -> tuple[Tensor, Optional[Tensor]]:
    """Weight (out, in) and bias of a 1x1 convolution, for tokens."""
    return conv.weight.flatten(1), conv.bias


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
