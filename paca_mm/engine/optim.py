"""What every parameter trains with: weight decay by its kind, its learning rate by its depth."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.nn as nn
from mmengine.optim import DefaultOptimWrapperConstructor
from torch.nn.modules.batchnorm import _NormBase

from paca_mm.errors import UserError
from paca_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

#: What ``paramwise_cfg`` may have. A shared parameter is taken once, whatever ``bypass_duplicate`` says.
KNOWN = (
    'layer_decay_rate',
    'norm_decay_mult',
    'bias_decay_mult',
    'flat_decay_mult',
    'dwconv_decay_mult',
    'bias_lr_mult',
    'custom_keys',
    'bypass_duplicate',
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Weight decay by the kind of a parameter, and layer-wise learning rates, under any host.

    >>> optim_wrapper = dict(
    ...     constructor='paca_mm.LayerDecayOptimWrapperConstructor',
    ...     paramwise_cfg=dict(layer_decay_rate=0.75),
    ... )

    As mmengine's own constructor, but for four things. Norms, biases and other vectors do not decay,
    unless their multipliers are given. These multipliers and those of ``custom_keys`` are multiplied
    with each other: mmengine's takes those of a key alone, so that ``'backbone': dict(lr_mult=0.1)``,
    as DETR's schedules have it, lets the norms of a backbone decay. What a backbone names in
    ``no_weight_decay()`` does not decay either. And a parameter of layer i of a backbone's n, as its
    ``get_layer_depth`` counts them, learns at ``layer_decay_rate ** (n - 1 - i)`` of the rate: the
    hosts' backbones have it too, and mmdet's and mmseg's constructors for it know ConvNeXt only.

    Parameters without a gradient are left out. Those that train with the same settings are one group.

    Args:
        optim_wrapper_cfg: The optimizer wrapper and its ``optimizer``.
        paramwise_cfg: ``layer_decay_rate`` (1), ``norm_decay_mult`` (0), ``bias_decay_mult`` (0),
            ``flat_decay_mult`` (0), ``dwconv_decay_mult`` (1), ``bias_lr_mult`` (1) and
            ``custom_keys``: settings of the parameters whose names hold a key, the longest that fits.

    Raises:
        UserError: (a ValueError) ``paramwise_cfg`` has other settings, or no part of the model counts
            its layers.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        given = dict(paramwise_cfg or {})
        if unknown := sorted(given.keys() - {*KNOWN}):
            also = ' (mmdetection calls layer_decay_rate so)' if 'decay_rate' in unknown else ''
            raise UserError(
                f'paramwise_cfg has {", ".join(unknown)}, which '
                f'{type(self).__name__} does not know{also}.\n'
                f'  to fix it: {", ".join(KNOWN)}; what a base config has besides goes with '
                '_delete_=True.'
            )
        super().__init__(optim_wrapper_cfg, None)
        if self.base_lr is None:
            raise UserError('the optimizer has no lr, which the layers are to have shares of.')
        self.paramwise_cfg = {'layer_decay_rate': 1.0, **given}  # never empty: add_params is asked

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the groups of a model's parameters.

        Args:
            params: The groups, to which those of the model are added.
            module: The model.
            prefix: What stands before its names.
        """
        backbones = _layered(module)
        if self._setting('layer_decay_rate', 1.0) != 1 and not backbones:
            raise UserError(
                f'layer_decay_rate={self.paramwise_cfg["layer_decay_rate"]} needs a backbone that '
                f'counts its layers (get_layer_depth), but {type(module).__name__} has none.\n'
                '  to fix it: a backbone of paca_mm, or a ViT, Swin or ConvNeXt of mmpretrain '
                "('mmpretrain.VisionTransformer'); or leave layer_decay_rate out."
            )
        still = {f'{name}{key}' for name, part in backbones.items() for key in _undecayed(part)}
        groups: dict[str, dict] = {}
        rate = self._setting('layer_decay_rate', 1.0)
        for name, parameter, owner in _parameters(module):
            settings = self._settings(name, parameter, owner, name in still)
            for before, part in backbones.items():
                if name.startswith(before):
                    settings['lr_scale'] = rate ** _depth(part, name, before)
                    settings['lr'] *= settings['lr_scale']
            group = groups.setdefault(repr(sorted(settings.items())), {'params': [], **settings})
            group['params'].append(parameter)
        params.extend(groups.values())

    def _setting(self, name: str, default: float) -> float:
        value = self.paramwise_cfg.get(name)
        return default if value is None else value

    def _settings(
        self, name: str, parameter: nn.Parameter, owner: nn.Module, still: bool
    ) -> dict[str, Any]:
        """The settings of a parameter, without what its depth makes of its learning rate."""
        keys = self.paramwise_cfg.get('custom_keys') or {}
        # As mmengine does: of equally long ones the first in the alphabet.
        longest = max(sorted(key for key in keys if key in name), key=len, default=None)
        own = dict(keys[longest]) if longest is not None else {}
        lr_mult, decay_mult = own.pop('lr_mult', 1.0), own.pop('decay_mult', 1.0)
        is_norm = isinstance(owner, _NORMS)
        is_bias = not is_norm and name.rpartition('.')[2] == 'bias'
        if is_norm:
            decay_mult *= self._setting('norm_decay_mult', 0.0)
        elif is_bias:
            decay_mult *= self._setting('bias_decay_mult', 0.0)
            lr_mult *= self._setting('bias_lr_mult', 1.0)
        elif parameter.ndim == 1:
            decay_mult *= self._setting('flat_decay_mult', 0.0)
        elif isinstance(owner, nn.Conv2d) and owner.in_channels == owner.groups:
            decay_mult *= self._setting('dwconv_decay_mult', 1.0)
        settings = {**own, 'lr': self.base_lr * lr_mult}
        if self.base_wd is not None:
            settings['weight_decay'] = 0.0 if still else self.base_wd * decay_mult
        return settings


_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Those that train, by name and with the layer that they are of; each once."""
    seen = set()
    for prefix, owner in model.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f'{prefix}.{name}' if prefix else name, parameter, owner


def _layered(model: nn.Module) -> dict[str, Any]:
    """The parts of a model that count their layers, by what stands before their names."""
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        inside = any(f'{name}.'.startswith(before) for before in found)
        # A classifier of mmpretrain has the method for its backbone, which may lack it.
        if name and not inside and callable(getattr(part, 'get_layer_depth', None)):
            found[f'{name}.'] = part
    return found


def _undecayed(part: nn.Module) -> set[str]:
    names: Callable[[], set[str]] = getattr(part, 'no_weight_decay', set)
    return set(names())


def _depth(part: Any, name: str, prefix: str) -> int:
    """How many layers lie above that of a parameter."""
    layer, count = part.get_layer_depth(name, prefix)
    return count - 1 - layer
