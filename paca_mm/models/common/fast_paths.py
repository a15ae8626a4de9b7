"""When a fast form may stand in for calling the layers one by one.

A fast form gives the same numbers. It is taken only where nobody would notice: no layer is hooked,
replaced, pruned or quantised, and nobody records the operations to run them elsewhere (tracing,
export). ``PACA_MM_PLAIN=1`` in the environment turns every fast form off, in backbones and in heads;
it is read once, when this module is imported.

Some questions need private names of torch. They are looked up here and nowhere else. Where a torch
lacks one of them, the answer is the plain form.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

#: Whether the user wants every layer to be called, one by one.
PLAIN = os.environ.get('PACA_MM_PLAIN', '') not in ('', '0')


def _lookup(holder: Any, *names: str) -> Any:
    """The first of these attributes that there is, or None."""
    return next((getattr(holder, name) for name in names if hasattr(holder, name)), None)


_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_has_hook_tables = all(hasattr(nn.Module(), name) for name in _HOOKS)
_global_hooks = [_lookup(nn.modules.module, f'_global{name}') for name in _HOOKS]
_is_compiling: Callable[[], bool] | None = _lookup(torch.compiler, 'is_compiling') or _lookup(
    getattr(torch, '_utils', None), 'is_compiling'
)  # the second is torch 2.1's
_is_exporting: Callable[[], bool] | None = _lookup(torch.compiler, 'is_exporting')
_is_transforming: Callable[[], bool] | None = _lookup(
    getattr(torch, '_C', None), '_are_functorch_transforms_active'
)

#: torch.compile of torch 2.1 can look neither into ``__dict__`` nor at the hooks of all modules.
_compiles_lookups = hasattr(torch.compiler, 'is_compiling')


def is_compiling() -> bool:
    """Whether torch.compile or torch.export reads the code."""
    return _is_compiling is None or _is_compiling()


def fast_paths_allowed() -> bool:
    """Whether any fast form may be taken: not with ``PACA_MM_PLAIN=1``, nor in tracing and export."""
    return not (PLAIN or _is_recorded())


def _is_recorded() -> bool:
    """Whether operations are recorded to run elsewhere: torch.jit.trace, ONNX, export, make_fx."""
    if _is_compiling is None:
        return True
    if is_compiling():  # torch 2.1 cannot tell torch.export from torch.compile
        return _is_exporting is not None and _is_exporting()
    if torch.jit.is_tracing():
        return True
    make_fx = sys.modules.get('torch.fx.experimental.proxy_tensor')
    if make_fx is None:  # nobody can be using it
        return False
    mode = _lookup(make_fx, 'get_proxy_mode', 'get_innermost_proxy_mode')
    return mode is None or mode() is not None


def are_plain_layers(*layers: nn.Module) -> bool:
    """Whether a fast form may read the weights of these layers instead of calling them.

    True if fast forms are allowed and every layer is torch's own ``nn.Linear`` or ``nn.Conv2d``
    without hooks, without a ``forward`` of its own, and with an ordinary parameter as its weight.
    LoRA and quantisation put another layer there; pruning and spectral norm make the weight in a hook.
    """
    return fast_paths_allowed() and all(
        type(layer) in (nn.Linear, nn.Conv2d)
        and calls_only_forward(layer)
        and type(layer.weight) is nn.Parameter
        for layer in layers
    )


def calls_only_forward(module: nn.Module) -> bool:
    """Whether calling a module does no more than the ``forward`` of its class."""
    if not _has_hook_tables:
        return False
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    if hooks:
        return False
    if is_compiling() and not _compiles_lookups:
        return True
    return 'forward' not in module.__dict__ and not _has_global_hooks()


def _has_global_hooks() -> bool:
    return any(hooks is None or len(hooks) > 0 for hooks in _global_hooks)


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether kernels run one by one, now, on a CPU, in the tensor's own precision."""
    if x.device.type != 'cpu' or is_compiling() or not fast_paths_allowed():
        return False
    return not (_is_transforming is None or _is_transforming() or _is_autocast())


def _is_autocast() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # torch 2.3 and older
        return torch.is_autocast_cpu_enabled()
