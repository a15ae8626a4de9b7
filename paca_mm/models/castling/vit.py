"""Any ViT of mmpretrain with Castling's attention in the place of its own."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch.nn as nn
from mmengine import registry
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.pretrained import is_pretrained, pretrained_init
from .attention import CastlingAttention
from .deit import load_vit


@MODELS.register_module()
def CastlingViT(
    vit: Mapping[str, Any],
    kernel_size: int = 9,
    softmax_branch: bool = True,
    threshold: float = 0.02,
    eps: float = 1e-6,
    pretrained: str | None = None,
    **given: Any,
) -> nn.Module:
    """Build a ViT of the host and exchange its attention.

    It returns the host's module itself: its class, its methods, its keys, among them ``qkv`` and
    ``proj`` of each attention, which are the host's layers with their weights; ``dconv`` is new. The
    host's layer scale, dropout and stochastic depth stay where they were.

    >>> backbone = dict(
    ...     type='paca_mm.CastlingViT',
    ...     vit=dict(type='VisionTransformer', arch='deit-tiny'),
    ...     init_cfg=dict(type='Pretrained', checkpoint='deit-tiny.pth'),
    ... )

    A class token is the first token of the axis along which the convolution runs, a distillation
    token the second: with 9 taps they exchange values with the first four patches of the image (its
    top left corner) by the convolution, and with all tokens by the attention. Behind them the patches
    follow row after row, so the convolution joins the end of a row to the beginning of the next.

    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` loads a DeiT or ViT checkpoint, with names of
    mmpretrain or the official ones, and reports what was taken, what is new and what was left; see
    :func:`~paca_mm.models.castling.deit.load_vit`.

    Args:
        vit: The config of the ViT, in the scope of the host around it: ``VisionTransformer``,
            ``DistilledVisionTransformer``, ``DeiT3``, or anything whose only attention is mmpretrain's
            ``MultiheadAttention`` of all tokens.
        kernel_size: See :class:`CastlingAttention`, as all of the following.
        softmax_branch: Whether the branch is there at first; ``paca_mm.CastlingHook`` fades it out.
        threshold: Softmax weights up to it are dropped.
        eps: Vectors shorter than this have no direction.
        pretrained: A file or URL, the same as such an ``init_cfg``; mmseg's segmentors hand it on.
        **given: What else stands in the config (``init_cfg``); the host's module gets it.

    Raises:
        UserError: The module has no attention, or some that cannot be exchanged.
    """
    if not isinstance(vit, Mapping) or 'type' not in vit:
        raise UserError(
            f'CastlingViT: vit={vit!r} must be the config of a ViT, '
            "vit=dict(type='VisionTransformer', arch='deit-tiny') say."
        )
    settings = {**vit, **given}
    if pretrained:
        settings['init_cfg'] = pretrained_init(settings.get('init_cfg'), pretrained)
    built: Any = registry.MODELS.build(settings)
    exchange_attention(
        built,
        kernel_size=kernel_size,
        softmax_branch=softmax_branch,
        threshold=threshold,
        eps=eps,
    )
    built.init_weights = _InitWeights(built)
    return built


def exchange_attention(model: nn.Module, **castling: Any) -> None:
    """Exchange the attention of a module, in place; see :func:`CastlingViT`.

    Args:
        model: The module.
        **castling: Arguments of :class:`CastlingAttention`.

    Raises:
        UserError: As there.
    """
    found = dict(_attentions_of(model))
    wrong = {name: why for name, attention in found.items() if (why := _objection(attention))}
    if wrong or not found:
        counted = Counter(wrong.values())
        first = {why: name for name, why in reversed(wrong.items())}
        kinds = [f'{number} x {why} ({first[why]}, ...)' for why, number in counted.items()]
        raise UserError(
            f'CastlingViT cannot exchange the attention of {type(model).__name__}.\n'
            f'  found: {"; ".join(kinds) or "no attention at all"}\n'
            "  expected: mmpretrain's MultiheadAttention of all tokens, with nothing but layer scale, "
            'dropout and stochastic depth behind it\n'
            "  to fix it: a ViT that has it, vit=dict(type='VisionTransformer', arch='deit-tiny') say "
            '(or DistilledVisionTransformer, DeiT3).'
        )
    for name, attention in found.items():
        parent, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(parent), attribute, HostAttention(attention, **castling))


def _attentions_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The attentions of a module by name, going by the names of their classes; none inside another."""
    inside = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        kind = type(module).__name__
        if name and ('attention' in kind.lower() or kind.endswith(('MSA', 'Attn', 'XCA'))):
            inside = f'{name}.'
            yield name, module


def _objection(attention: Any) -> str:
    """Why an attention cannot be exchanged; ``''`` if it can."""
    if type(attention) is not MultiheadAttention:
        return type(attention).__name__
    if attention.v_shortcut or attention.input_dims != attention.embed_dims:
        return 'MultiheadAttention with a shortcut of its values (v_shortcut)'
    if attention.attn_drop:
        return (
            f'MultiheadAttention with attn_drop={attention.attn_drop}, which drops softmax weights'
        )
    if isinstance(attention.scaled_dot_product_attention, partial):
        return 'MultiheadAttention with qk_scale'
    return ''


class HostAttention(CastlingAttention):
    """:class:`CastlingAttention` with what a host has around its own: layer scale and dropout.

    Args:
        attention: mmpretrain's ``MultiheadAttention``, whose layers it takes over; frozen and in eval
            mode if that is.
        **castling: Arguments of :class:`CastlingAttention`.
    """

    def __init__(self, attention: Any, **castling: Any) -> None:
        super().__init__(attention.embed_dims, attention.num_heads, **castling)
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.dconv.to(attention.qkv.weight)
        self.proj_drop = attention.proj_drop
        self.out_drop = attention.out_drop
        self.gamma1 = attention.gamma1
        if not any(p.requires_grad for p in attention.parameters()):
            self.requires_grad_(False)
        self.train(attention.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.out_drop(self.gamma1(self.proj_drop(super().forward(x))))


class _InitWeights:
    """The ``init_weights`` of a host's ViT, which reports what became of a checkpoint's keys."""

    def __init__(self, vit: nn.Module) -> None:
        self.vit: Any = vit

    def __call__(self) -> None:
        init = self.vit.init_cfg
        if not is_pretrained(init):
            type(self.vit).init_weights(self.vit)
        elif not self.vit.is_init:
            load_vit(self.vit, init.get('checkpoint'), init.get('prefix')).log()
            self.vit.is_init = True
