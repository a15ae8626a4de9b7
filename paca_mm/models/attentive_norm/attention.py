"""The weights of the mixture, from what a channel's values are like."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from paca_mm.errors import UserError, did_you_mean

from .statistics import batch_moments, several_processes, track, uses_batch


class Recipe(NamedTuple):
    """A weight function: layers, and what makes weights of their output.

    Attributes:
        hidden: A hidden layer of 2K channels with a ReLU behind it.
        norm: A norm behind each convolution, which then has no bias.
        squash: The last step.
    """

    hidden: bool
    norm: bool
    squash: Callable[[], nn.Module]


class HardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6  # torch.hardsigmoid has its sixth in float32 only


def _softmax() -> nn.Module:
    return nn.Softmax(dim=1)


#: The weight functions in the order of the official modes 0 to 6.
ATTENTIONS = {
    'conv_sigmoid': Recipe(False, False, nn.Sigmoid),
    'mlp_sigmoid': Recipe(True, False, nn.Sigmoid),
    'conv_norm_hsigmoid': Recipe(False, True, HardSigmoid),
    'mlp_norm_hsigmoid': Recipe(True, True, HardSigmoid),
    'conv_hsigmoid': Recipe(False, False, HardSigmoid),
    'conv_norm_sigmoid': Recipe(False, True, nn.Sigmoid),
    'conv_norm_softmax': Recipe(False, True, _softmax),
}

#: Added to a variance under the root of the attention's input.
EPS = 1e-3


class AttentionWeights(nn.Module):
    """The weights (B, K) of the affine pairs, from the moments of the input's channels.

    The input is the mean of a channel in units of its deviation, mean / sqrt(var + 1e-3), with the
    unbiased variance. At a single position it is mean / sqrt(1e-3): the authors' code divides by
    zero there.

    Args:
        num_features: C.
        num_mixtures: K.
        attention: A name in :data:`ATTENTIONS`.
        norm: Makes the norm of so many channels.

    Raises:
        UserError: The attention is unknown, or K is below 1.
    """

    def __init__(
        self,
        num_features: int,
        num_mixtures: int,
        attention: str,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise UserError(
                f'attention={attention!r} is unknown{did_you_mean(str(attention), ATTENTIONS)}\n'
                f'  known: {", ".join(ATTENTIONS)}.'
            )
        if not isinstance(num_mixtures, int) or num_mixtures < 1:
            raise UserError(
                f'num_mixtures={num_mixtures!r} must be a whole number of affine pairs, at least 1; '
                'the published models have 5 to 20.'
            )
        recipe = ATTENTIONS[attention]
        widths = [num_features, *([2 * num_mixtures] if recipe.hidden else []), num_mixtures]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            if i:
                layers.append(nn.ReLU())
            layers.append(nn.Conv2d(inputs, outputs, 1, bias=not recipe.norm))
            if recipe.norm:
                layers.append(norm(outputs))
        layers.append(recipe.squash())
        self.attention = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's initialisation of the convolutions; the norms begin as they are made."""
        for layer in self.attention:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, mean: Tensor, var: Tensor, positions: int) -> Tensor:
        """Moments (B, C), the variance biased, and the positions they are of -> weights (B, K).

        Raises:
            UserError: A BatchNorm would be trained on the single image of a batch.
        """
        if positions > 1:
            var = var * positions / (positions - 1)
        x = mean * torch.rsqrt(var + EPS)
        for layer in self.attention:
            if isinstance(layer, nn.BatchNorm2d) and uses_batch(layer) and x.shape[0] == 1:
                _check_alone(layer)
        dtype = next(self.attention.parameters()).dtype
        return self.attention(x.to(dtype)[..., None, None]).flatten(1).to(x.dtype)


def _check_alone(norm: nn.BatchNorm2d) -> None:
    if not (isinstance(norm, SyncedBatchNorm) and several_processes()):
        raise UserError(
            'the attention normalises its weights over the images of a batch, and there is one '
            'image: at least two are needed.\n'
            "  to fix it: more images a process, type='paca_mm.AttnSyncBN' in a job of several "
            "processes, norm_eval=True, or attention='conv_hsigmoid', which has no norm."
        )


class SyncedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm of weights (B, K, 1, 1) over the images of all processes; also on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and several_processes()):
            return super().forward(x)
        values = x.flatten(1)
        mean, var, count = batch_moments(values, torch.zeros_like(values), 1, sync=True)
        track(self, mean, var, count)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return ((values - mean) * scale + self.bias).view(x.shape)
