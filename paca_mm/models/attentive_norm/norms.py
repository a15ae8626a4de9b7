"""BatchNorm and GroupNorm whose affine part is a mixture, weighted for every image."""

from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.precision import without_autocast
from .attention import AttentionWeights, SyncedBatchNorm
from .statistics import (
    batch_moments,
    moments,
    scale_and_shift,
    several_processes,
    track,
    uses_batch,
)


class _Mixture:
    """What both norms share: K affine pairs, and the attention that weighs them.

    With standardised x and weights l (B, K):
    ``y = (sum_k l_k weight_k) * x + (sum_k l_k bias_k)``.
    """

    num_mixtures: int
    attention: str
    attention_weights: AttentionWeights
    weight_: nn.Parameter
    bias_: nn.Parameter

    def _settle(self: Any, channels: int, weights: AttentionWeights) -> None:
        """The end of a constructor: the mixture in place of the affine parameters."""
        # There is no `weight` at all, not one that is None: what folds a norm into a convolution, or
        # puts SyncBN into its place, stops at it instead of leaving the mixture out in silence.
        del self.weight, self.bias
        self.affine = True
        self.weight_ = nn.Parameter(torch.empty(self.num_mixtures, channels))
        self.bias_ = nn.Parameter(torch.empty(self.num_mixtures, channels))
        self.attention_weights = weights
        self.reset_parameters()

    def _reset_mixture(self: Any) -> None:
        """As published: scales around 1, shifts around 0, both with a deviation of 0.1."""
        if 'weight_' in self._parameters:  # not yet while the base class is made
            nn.init.normal_(self.weight_, 1, 0.1)
            nn.init.normal_(self.bias_, 0, 0.1)
            self.attention_weights.reset_parameters()

    def _apply_mixture(self: Any, x: Tensor, weights: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Standardise x (B, C, ...) by its mean and variance, (C,) or (B, C), and mix the pairs."""
        scale = (weights @ self.weight_.to(weights.dtype)) * torch.rsqrt(var + self.eps)
        shift = weights @ self.bias_.to(weights.dtype) - mean * scale
        return scale_and_shift(x, scale, shift)

    def __getattr__(self: Any, name: str) -> Any:
        if name in ('weight', 'bias'):
            raise AttributeError(
                f'{type(self).__name__} has no {name!r}: its affine part, weight_ and bias_, is mixed '
                'again for every image. So it can neither be folded into a convolution nor be '
                "exchanged for SyncBN; for synchronised statistics take type='paca_mm.AttnSyncBN'."
            )
        return super().__getattr__(name)  # type: ignore[misc]

    def extra_repr(self: Any) -> str:
        names = (
            'num_groups',
            'num_mixtures',
            'attention',
            'eps',
            'momentum',
            'track_running_stats',
        )
        words = [f'{name}={getattr(self, name)!r}' for name in names if hasattr(self, name)]
        return ', '.join([str(self.weight_.shape[1]), *words])


@MODELS.register_module()
class AttnBN(_Mixture, nn.BatchNorm2d):
    """Attentive Normalization on BatchNorm, (B, C, H, W) -> (B, C, H, W).

    `Attentive Normalization <https://arxiv.org/abs/1908.01259>`_ (ECCV 2020). It is a BatchNorm2d to
    whoever asks: ``norm_eval``, decay of norms, freezing and mmcv's names go on as they are. Its
    moments, and all that is computed with them, are in float32 under autocast and in half
    precision.

    Args:
        num_features: C.
        num_mixtures: K affine pairs.
        attention: What weighs them, a name in :data:`.attention.ATTENTIONS`; the published models
            have the default.
        eps: Added to the variance.
        momentum: Of the running statistics; None averages over all batches.
        track_running_stats: Keep statistics for the eval mode.

    Attributes:
        weight_: (K, C), the scales.
        bias_: (K, C), the shifts.

    Raises:
        UserError: An argument is unknown or out of range.
    """

    _sync = False
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_mixtures: int = 10,
        attention: str = 'conv_norm_hsigmoid',
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
    ) -> None:
        nn.BatchNorm2d.__init__(
            self, num_features, eps, momentum, affine=False, track_running_stats=track_running_stats
        )
        self.num_mixtures = num_mixtures
        self.attention = attention
        norm = SyncedBatchNorm if self._sync else nn.BatchNorm2d
        self._settle(num_features, AttentionWeights(num_features, num_mixtures, attention, norm))

    def reset_parameters(self) -> None:
        """Begin again: statistics and parameters."""
        self.reset_running_stats()
        self._reset_mixture()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in training by the batch, in eval mode by the running statistics.

        Raises:
            UserError: There is one value a channel in training, or one image for an attention that
                normalises over the batch.
        """
        self._check_input_dim(x)
        positions = x.shape[2] * x.shape[3]
        with without_autocast(x):
            own_mean, own_var = moments(x)
            if uses_batch(self):
                sync = self._sync and self.training and several_processes()
                if len(x) * positions == 1 and not sync:
                    raise UserError(
                        f'{type(self).__name__} needs more than one value a channel in training, '
                        f'but it was given {tuple(x.shape)}: take more images a process, or larger '
                        'ones.'
                    )
                mean, var, count = batch_moments(own_mean, own_var, positions, sync)
                track(self, mean, var, count)
            else:
                mean = self.running_mean.to(own_mean.dtype)  # type: ignore[union-attr]
                var = self.running_var.to(own_mean.dtype)  # type: ignore[union-attr]
            weights = self.attention_weights(own_mean, own_var, positions)
            return self._apply_mixture(x, weights, mean, var)

    def with_sync(self) -> 'AttnBN':
        """An AttnSyncBN of the same tensors."""
        return _as(AttnSyncBN, self)

    def without_sync(self) -> 'AttnBN':
        """An AttnBN of the same tensors."""
        return _as(AttnBN, self)


@MODELS.register_module()
class AttnSyncBN(AttnBN):
    """AttnBN with the statistics of all processes, of the map and of the attention's norm.

    In one process, and in eval mode, it is AttnBN. It works on a CPU (gloo) too. It is no
    ``nn.SyncBatchNorm``, so nobody who replaces those puts plain BatchNorm in its place.
    """

    _sync = True


def _as(cls: type[AttnBN], norm: AttnBN) -> AttnBN:
    """A norm of another class with the tensors, the mode and the settings of a norm."""
    with torch.device('meta'):
        made = cls(
            norm.num_features,
            norm.num_mixtures,
            norm.attention,
            norm.eps,
            norm.momentum,
            norm.running_mean is not None,
        )
    for name, module in norm.named_modules():
        twin = made.get_submodule(name)
        twin._parameters = dict(module._parameters)
        twin._buffers = dict(module._buffers)
        twin.training = module.training
    return made


@MODELS.register_module()
class AttnGN(_Mixture, nn.GroupNorm):
    """Attentive Normalization on GroupNorm, (B, C, ...) -> (B, C, ...).

    A GroupNorm to whoever asks; see :class:`AttnBN`. A norm within the attention is a GroupNorm of one
    group. The only published results are those of the default, ``'conv_hsigmoid'``.

    Args:
        num_features: C.
        num_groups: Groups of neighbouring channels that are standardised together.
        num_mixtures: K affine pairs.
        attention: What weighs them, a name in :data:`.attention.ATTENTIONS`.
        eps: Added to the variance.

    Raises:
        UserError: An argument is unknown or out of range, or the groups do not divide the channels.
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        num_mixtures: int = 10,
        attention: str = 'conv_hsigmoid',
        eps: float = 1e-5,
    ) -> None:
        if num_groups < 1 or num_features % num_groups:
            fits = [g for g in range(1, num_features + 1) if num_features % g == 0]
            raise UserError(
                f'num_groups={num_groups} does not divide the {num_features} channels; '
                f'{", ".join(map(str, fits))} do.'
            )
        nn.GroupNorm.__init__(self, num_groups, num_features, eps, affine=False)
        self.num_mixtures = num_mixtures
        self.attention = attention
        self._settle(
            num_features,
            AttentionWeights(num_features, num_mixtures, attention, partial(nn.GroupNorm, 1)),
        )

    def reset_parameters(self) -> None:
        """Begin again."""
        self._reset_mixture()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Raises:
            UserError: The input has no positions or other channels.
        """
        if x.ndim < 3 or x.shape[1] != self.num_channels:
            raise UserError(
                f'AttnGN(num_features={self.num_channels}) reads (B, {self.num_channels}, H, W), but '
                f'it was given {tuple(x.shape)}.'
            )
        positions = x[0, 0].numel()
        with without_autocast(x):
            own_mean, own_var = moments(x)
            weights = self.attention_weights(own_mean, own_var, positions)
            of_groups = own_mean.unflatten(1, (self.num_groups, -1))
            mean = of_groups.mean(-1, keepdim=True)
            spread = (of_groups - mean).square() + own_var.view(of_groups.shape)
            var = spread.mean(-1, keepdim=True)
            mean = mean.expand(of_groups.shape).flatten(1)
            var = var.expand(of_groups.shape).flatten(1)
            return self._apply_mixture(x, weights, mean, var)
