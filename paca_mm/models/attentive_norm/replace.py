"""Exchanging the norms of any model of a host."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine import registry
from torch.nn.modules.batchnorm import _NormBase

from paca_mm.errors import UserError, some_of
from paca_mm.registry import MODELS

from ..common.pretrained import pretrained_init


@MODELS.register_module()
def ReplaceNorms(
    module: Mapping[str, Any],
    norms: Mapping[str, Any],
    pretrained: str | None = None,
    **given: Any,
) -> nn.Module:
    """Build a module of the host and exchange some of its norms.

    It returns the host's module itself: its class, its methods, its keys. Norms that were frozen
    are replaced by frozen ones, in the mode of the old ones; their parameters are new.

    >>> backbone = dict(
    ...     type='paca_mm.ReplaceNorms',
    ...     module=dict(type='mmpretrain.ResNet', depth=50),
    ...     norms={r'layer\\d\\.\\d+\\.bn2': dict(type='paca_mm.AttnBN', num_mixtures=10)},
    ... )

    Args:
        module: The config of the module, in the scope of the host around it.
        norms: For every regular expression that a norm's complete name in the module matches, the
            config of the norm that takes its place. The channels are those of the old one.
        pretrained: A file or URL, the same as ``init_cfg=dict(type='Pretrained', checkpoint=...)`` in
            the module; mmseg's segmentors hand it on.
        **given: What the host adds to the config, such as the ``train_cfg`` of its heads; the
            module gets it.

    Raises:
        UserError: An expression matches no norm or is none, or two match the same norm.
    """
    if not isinstance(module, Mapping) or 'type' not in module:
        raise UserError(
            f'ReplaceNorms: module={module!r} must be the config of a module, '
            "module=dict(type='ResNet', depth=50) say."
        )
    settings = {**module, **given}
    if pretrained:
        settings['init_cfg'] = pretrained_init(settings.get('init_cfg'), pretrained)
    built = registry.MODELS.build(settings)
    exchange_norms(built, norms)
    return built


def exchange_norms(model: nn.Module, norms: Mapping[str, Any]) -> None:
    """Exchange the norms of a module, in place; see :func:`ReplaceNorms`.

    Raises:
        UserError: As there.
    """
    found = dict(norms_of(model))
    chosen: dict[str, str] = {}
    for pattern in norms:
        for name in _matched(pattern, found, model):
            if name in chosen:
                raise UserError(
                    f'ReplaceNorms: both {chosen[name]!r} and {pattern!r} match the norm {name}; one '
                    'of them must leave it out.'
                )
            chosen[name] = pattern
    for name, pattern in chosen.items():
        parent, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(parent), attribute, _in_place_of(found[name], norms[pattern]))


def norms_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms of channels of a module by name; not those that are parts of other norms."""
    inside = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, (_NormBase, nn.GroupNorm)):
            inside = f'{name}.'
            if name:
                yield name, module


def _matched(pattern: str, found: Mapping[str, nn.Module], model: nn.Module) -> list[str]:
    try:
        names = [name for name in found if re.fullmatch(pattern, name)]
    except re.error as e:
        raise UserError(f'ReplaceNorms: {pattern!r} is no regular expression: {e}.') from e
    if not names:
        # A pattern and a name differ in their numbers, which say nothing about what is near.
        kinds = {re.sub(r'\d+(?=\.)', '0', name): name for name in reversed([*found])}
        plain = re.sub(r'\\d[+*]?|\[[^\]]*\][+*]?|\d+(?=\\\.)', '0', pattern).replace('\\', '')
        near = [kinds[kind] for kind in get_close_matches(plain, kinds, n=4, cutoff=0.3)]
        raise UserError(
            f'ReplaceNorms: {pattern!r} matches none of the {len(found)} norms of '
            f'{type(model).__name__}; it must match a complete name.\n'
            f'  near it: {", ".join(near) or "nothing"}\n  its norms: {some_of(found) or "none"}'
        )
    return names


def _in_place_of(old: nn.Module, cfg: Mapping[str, Any]) -> nn.Module:
    """A new norm of the channels, the device and the dtype of an old one, frozen if that was."""
    channels = getattr(old, 'num_channels', None) or getattr(old, 'num_features')  # noqa: B009
    _, new = build_norm_layer(dict(cfg), channels)
    parameters = list(old.parameters())
    if parameters:
        new.to(parameters[0])
        if not any(p.requires_grad for p in parameters):
            new.requires_grad_(False)
    return new.train(old.training)
