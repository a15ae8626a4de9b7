"""Castling's attention: linear-angular, a convolution along the tokens, a branch that fades out."""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.precision import without_autocast
from .angular import directions, linear_angular


@MODELS.register_module()
class CastlingAttention(nn.Module):
    """Linear-angular attention with an auxiliary masked softmax attention.

    `Castling-ViT: Compressing Self-Attention via Switching Towards Linear-Angular Attention at Vision
    Transformer Inference <https://arxiv.org/abs/2211.10526>`_, CVPR 2023. For every head::

        y = v / 2 + q^ (k^T v) / pi + S v        q^, k^: directions of the queries and the keys
        y = y / |y| + DW(v)                      DW: a depthwise convolution along the token axis
        S = A [A > threshold]                    A = softmax(q k^T / sqrt(d)), the softmax branch

    The softmax branch helps training and is quadratic in N. It runs, in training and in evaluation,
    until :meth:`remove_softmax_branch`; everything else is O(N d^2). It has no parameters. Whether it
    runs, its threshold and its factor travel with the state dict, in the metadata that torch keeps of
    each module, so that a checkpoint is evaluated as it was trained; the keys are the official ones
    (``qkv``, ``dconv``, ``proj``). Files without metadata (safetensors, the official code's) leave all
    three as they were constructed.

    Args:
        embed_dims: C.
        num_heads: h; C must be a multiple of it.
        qkv_bias: Whether queries, keys and values have a bias.
        kernel_size: Of the convolution along the token axis, an odd number. Tokens are taken in their
            order: of an image row after row, a class token in front of them being one of the axis.
        softmax_branch: Whether the branch is there at first; :class:`CastlingHook` fades it out.
        threshold: Softmax weights up to it are dropped. The authors remark that 0.02 must be adapted.
        eps: Queries, keys and outputs shorter than this count as zero and pass no gradient back, so
            that none of them makes NaN; 0 is the official code, which divides by any length.

    Attributes:
        softmax_branch: Whether the branch runs.
        threshold: Its threshold now.
        branch_factor: What it is multiplied by now.

    Raises:
        UserError: (a ValueError) An argument is out of its range.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = False,
        kernel_size: int = 9,
        softmax_branch: bool = True,
        threshold: float = 0.02,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        _check(embed_dims, num_heads, kernel_size, threshold, eps)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.eps = eps
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        # The heads are its channels, the token axis its height: one kernel a head for all d.
        self.dconv = nn.Conv2d(
            num_heads,
            num_heads,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=num_heads,
            bias=False,
        )
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.softmax_branch = softmax_branch
        self.threshold = threshold
        self.branch_factor = 1.0
        #: As constructed, whatever a checkpoint has said since: what a schedule begins with.
        self.built_with_branch = softmax_branch
        self.built_threshold = threshold
        # A hook and no method, because mmengine collects state dicts by a function of its own.
        self._register_state_dict_hook(_note_branch)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to every token, (B, N, C) -> (B, N, C).

        Raises:
            UserError: The input is no such tensor.
        """
        if x.ndim != 3 or x.shape[-1] != self.embed_dims:
            raise UserError(
                f'CastlingAttention(embed_dims={self.embed_dims}) reads tokens (B, N, '
                f'{self.embed_dims}), but it was given {tuple(x.shape)}.'
            )
        # No unflatten: torch's exporter by tracing would take the batch for a constant behind it.
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # B, h, N, d each
        y = linear_angular(q, k, v, self.eps)
        if self.softmax_branch:
            y = y + self._masked_softmax(q, k) @ v
        with without_autocast(y):
            y = directions(y, self.eps).to(v.dtype)
        y = y + self.dconv(v)
        return self.proj(y.transpose(1, 2).flatten(2))

    def _masked_softmax(self, q: Tensor, k: Tensor) -> Tensor:
        """S, (B, h, N, N), in the dtype of the queries."""
        scale = q.shape[-1] ** -0.5
        # The queries are scaled first: the products of long ones would overflow in half precision.
        weights = ((q * scale) @ k.transpose(-2, -1)).softmax(-1)
        return self._masked(weights).to(q.dtype)

    def _masked(self, weights: Tensor) -> Tensor:
        return weights * (weights > self.threshold) * self.branch_factor

    def branch_is_silent(self) -> bool:
        """Whether the softmax branch adds exactly zero, whatever the tokens are.

        Tried on the largest weight that a softmax can give, which is 1.
        """
        return not self.softmax_branch or not self._masked(torch.ones(1)).any()

    def remove_softmax_branch(self) -> None:
        """Leave the linear part and the convolution alone: O(N d^2)."""
        self.softmax_branch = False

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        """Also take over what became of the branch."""
        if branch := local_metadata.get('softmax_branch'):
            self.softmax_branch = branch['runs']
            self.threshold = branch['threshold']
            self.branch_factor = branch['factor']
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        branch = f'threshold={self.threshold}, factor={self.branch_factor}'
        return (
            f'embed_dims={self.embed_dims}, num_heads={self.num_heads}, eps={self.eps}, '
            f'softmax_branch={f"({branch})" if self.softmax_branch else "removed"}'
        )


def _note_branch(module: CastlingAttention, state: dict, prefix: str, metadata: dict) -> None:
    """Write the branch into the metadata of a state dict, beside torch's version number."""
    metadata['softmax_branch'] = dict(
        runs=module.softmax_branch, threshold=module.threshold, factor=module.branch_factor
    )


def castling_attentions(model: nn.Module) -> list[CastlingAttention]:
    """All of them in a model, in its order."""
    return [module for module in model.modules() if isinstance(module, CastlingAttention)]


def remove_softmax_branches(model: nn.Module) -> nn.Module:
    """Remove every softmax branch of a model, in place; returns the model."""
    for attention in castling_attentions(model):
        attention.remove_softmax_branch()
    return model


def _check(embed_dims: int, num_heads: int, kernel_size: int, threshold: float, eps: float) -> None:
    if num_heads < 1 or embed_dims < 1 or embed_dims % num_heads:
        raise UserError(
            f'CastlingAttention: embed_dims={embed_dims} must be a multiple of '
            f'num_heads={num_heads}.'
        )
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UserError(
            f'CastlingAttention: kernel_size={kernel_size} must be an odd number above 0, so that '
            'the number of tokens stays; the authors take 9.'
        )
    if not 0 <= threshold <= 1:
        raise UserError(
            f'CastlingAttention: threshold={threshold} must be from 0 to 1, as softmax weights are; '
            'softmax_branch=False leaves the branch out.'
        )
    if eps < 0:
        raise UserError(f'CastlingAttention: eps={eps} must not be below 0.')
