"""Multiply-accumulates, counted while a model runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

from .tables import columns


@dataclass
class Cost:
    """What a module costs.

    Attributes:
        macs: Multiply-accumulates of its forward pass.
        params: Its parameters.
        children: The same of its submodules, in the order of the code.
    """

    macs: int
    params: int
    children: dict[str, 'Cost'] = field(default_factory=dict)

    def table(self, depth: int = 2, name: str = 'model') -> str:
        """Module, parameters and MACs down to a depth, a line each."""
        lines = [['module', 'params (M)', 'MACs (G)', 'share']]
        for label, cost in self._rows(name, depth):
            share = cost.macs / max(self.macs, 1)
            lines.append(
                [label, f'{cost.params / 1e6:.3f}', f'{cost.macs / 1e9:.3f}', f'{share:.1%}']
            )
        return columns(lines)

    def _rows(self, name: str, depth: int, indent: str = ''):
        yield indent + name, self
        if depth:
            for child, cost in self.children.items():
                if cost.macs or cost.params:
                    yield from cost._rows(child, depth - 1, indent + '  ')


def count(model: nn.Module, run: Callable[[nn.Module], Any]) -> Cost:
    """Count the multiply-accumulates of ``run(model)``.

    Convolutions, linear layers, matrix products and both products of the attention count; norms,
    activations, resizing and pooling windows do not. What is counted is what is executed, layer by
    layer: every ``forward`` is replaced while it counts, so a fast form that passes its layers by
    (:mod:`paca_mm.models.common.fast_paths`) gives way and the layers are called one by one. That
    takes the same products, only in other pieces, and torch's counter knows all of them (it misses
    the sums of pieces, ``addmm_``).

    Args:
        model: Any model.
        run: Calls it, without gradients.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    macs: dict[nn.Module, int] = {}

    def total() -> int:
        return sum(counter.flop_counts['Global'].values()) // 2

    def counted(module: nn.Module) -> Callable:
        forward = module.forward

        def run_and_count(*args: Any, **kwargs: Any) -> Any:
            before = total()
            result = forward(*args, **kwargs)
            macs[module] = macs.get(module, 0) + total() - before
            return result

        return run_and_count

    # Not by hooks: the hosts call a head's `forward` directly, which no hook sees.
    replaced = [m for m in model.modules() if 'forward' not in vars(m)]
    for module in replaced:
        module.forward = counted(module)
    try:
        with torch.no_grad(), counter:
            run(model)
    finally:
        for module in replaced:
            del module.forward
    cost = _tree(model, macs)
    cost.macs = total()
    return cost


def _tree(module: nn.Module, macs: dict[nn.Module, int]) -> Cost:
    children = {name: _tree(child, macs) for name, child in module.named_children()}
    # Containers (a ModuleList, a head that is entered by another method) are never called.
    inside = sum(child.macs for child in children.values())
    return Cost(
        macs=macs.get(module, inside),
        params=sum(p.numel() for p in module.parameters()),
        children=children,
    )


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """q k^T and its product with v; older torches hand over tensors, newer ones shapes."""
    q, k, v = (tuple(getattr(x, 'shape', x)) for x in (query, key, value))
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_ops() -> dict[Any, Callable[..., int]]:
    """Every form in which ``scaled_dot_product_attention`` reaches a device, as far as they exist."""
    names = (
        '_scaled_dot_product_flash_attention_for_cpu',
        '_scaled_dot_product_flash_attention',
        '_scaled_dot_product_efficient_attention',
        '_scaled_dot_product_cudnn_attention',
    )
    ops = (getattr(torch.ops.aten, name, None) for name in names)
    return {op: _attention_flops for op in ops if op is not None}


_ATTENTION = _attention_ops()
