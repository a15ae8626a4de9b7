"""Where the time of a step goes, by kind of operation."""

from collections.abc import Sequence
from math import prod
from typing import Any, Optional

import torch

from .clock import Spread, matmul, need, seconds_of
from .contestants import Setting, make
from .report import columns

_PRODUCTS = {'mm', 'addmm', 'addmm_', 'bmm', 'baddbmm'}
_SUMS = {'add', 'add_', 'sum', 'copy_', 'fill_', 'mul', 'mul_', 'div', 'cat', 'constant_pad_nd'}


def profile(name: str, setting: Setting, rounds: int, threads: int) -> str:
    """A table of the milliseconds that each kind of operation takes in a step of a contestant.

    Beside the products stands what they would take at the rate of one large matrix product.
    """
    need(setting.device)
    torch.set_num_threads(threads)
    device = torch.device(setting.device)
    contestant = make(name, setting)
    multiply, macs = matmul(device, contestant.facts.setting.dtype)
    for _ in range(2):
        contestant.run()
        multiply()
    rate = macs / Spread.of([seconds_of(multiply, device) for _ in range(rounds)]).median
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as record:
        for _ in range(rounds):
            contestant.run()
    spent: dict[str, float] = {}
    needed: dict[str, float] = {}
    for event in record.events():
        time = event.self_device_time_total if device.type == 'cuda' else event.self_cpu_time_total
        kind, macs = _kind(event.name, event.input_shapes or [])
        spent[kind] = spent.get(kind, 0) + time / rounds / 1e3
        needed[kind] = needed.get(kind, 0) + macs / rate / rounds * 1e3
    total = sum(spent.values())
    lines = [[f'{name}, {setting.mode}, batch {setting.batch}', 'ms', 'share', 'ms as one product']]
    for kind, ms in sorted(spent.items(), key=lambda item: -item[1]):
        ideal = f'{needed[kind]:.1f}' if needed[kind] else '-'
        lines.append([kind, f'{ms:.1f}', f'{ms / total:.1%}', ideal])
    return columns([*lines, ['total', f'{total:.1f}', '100.0%', f'{sum(needed.values()):.1f}']])


def _kind(name: str, shapes: Sequence[Any]) -> tuple[str, int]:
    """The kind of an operation, and its multiply-accumulates if its shapes tell."""
    op = name.removeprefix('aten::')
    if 'scaled_dot_product' in op:
        return 'attention', _attention_macs(op, shapes)
    if op in _PRODUCTS:
        a, b = [s for s in shapes if len(s) > 1][-2:]
        return 'matrix products', prod(a) * b[-1]
    if 'conv' in op:
        kernel = next((s for s in shapes[1:] if len(s) == 4 and s[-1] in (1, 3, 7)), None)
        return _convolution(op, shapes[0] if shapes else None, kernel)
    kinds = {'gelu': 'GELU', 'norm': 'norms', 'softmax': 'softmax'}
    kind = next((kind for word, kind in kinds.items() if word in op), None)
    return kind or ('sums and copies' if op in _SUMS else 'all else'), 0


def _attention_macs(op: str, shapes: Sequence[Any]) -> int:
    """Two products forward, five backward (one of them repeats the weights)."""
    backward = 'backward' in op
    tensors = [s for s in shapes if len(s) == 4][1 if backward else 0 :]
    if len(tensors) < 2 or op == 'scaled_dot_product_attention':
        return 0
    q, k = tensors[:2]
    return prod(q) * k[-2] * (5 if backward else 2)


def _convolution(op: str, x: Any, kernel: Optional[Any]) -> tuple[str, int]:
    if kernel is None:
        return 'all else', 0
    if kernel[-1] == 1:  # stride 1: as many positions come out as go in
        macs = prod(x) * kernel[0] if 'mkldnn_convolution' in op or 'cudnn_convolution' in op else 0
        return 'matrix products', macs
    return ('depthwise convolutions' if kernel[1] == 1 else 'full convolutions'), 0
