"""When a fast form may stand in for calling the layers one by one."""

import torch
import torch.nn as nn
from torch import Tensor

#: Whether torch.compile is looking; torch 2.1 has it elsewhere.
is_compiling = getattr(torch.compiler, 'is_compiling', torch._utils.is_compiling)

_COMPILES_DICTS = hasattr(torch.compiler, 'is_compiling')

_GLOBAL_HOOKS = [
    getattr(nn.modules.module, f'_global_{kind}_hooks')
    for kind in ('forward', 'forward_pre', 'backward', 'backward_pre')
]


def is_bare(*layers: nn.Module) -> bool:
    """Whether every layer is torch's own linear layer or convolution, with a bias, and nobody
    watches or replaces it.

    A hook, a stand-in (LoRA), a weight of another kind (quantised, sharded) must not be passed by.
    """
    return all(
        type(layer) in (nn.Linear, nn.Conv2d)
        and is_unwatched(layer)
        and type(layer.weight) is nn.Parameter
        and layer.bias is not None
        for layer in layers
    )


def is_unwatched(module: nn.Module) -> bool:
    """Whether calling a module does no more than its class's ``forward``."""
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    # torch.compile of torch 2.1 cannot look into __dict__: it does not see a replaced forward.
    replaced = (_COMPILES_DICTS or not is_compiling()) and 'forward' in module.__dict__
    return not (hooks or replaced)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether kernels run one by one, now, on a CPU, in the tensor's own precision, unwatched."""
    if x.device.type != 'cpu' or is_compiling() or torch.jit.is_tracing():
        return False
    transformed = torch._C._are_functorch_transforms_active()
    return not (transformed or _is_autocast() or any(_GLOBAL_HOOKS))


def _is_autocast() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # torch 2.3 and older
        return torch.is_autocast_cpu_enabled()
