"""Where the time of a step goes, by kind of operation."""

import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
import torch.nn as nn

from ..tables import columns
from .clock import Spread, matmul, need, seconds_of
from .contestants import make
from .exported import Exported
from .steps import Setting
from .worker import alone

_PRODUCTS = {'mm', 'addmm', 'addmm_', 'bmm', 'baddbmm'}
_SUMS = {'add', 'add_', 'sum', 'copy_', 'fill_', 'mul', 'mul_', 'div', 'cat', 'constant_pad_nd'}
_SUMS |= {'concat', 'pad', 'reorderinput', 'reorderoutput', 'slice', 'transpose'}  # onnxruntime's


def profile(name: str, setting: Setting, rounds: int, threads: int) -> str:
    """:func:`profile_here` in a process of its own."""
    need(setting.device)
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler talks about itself
    return alone(profile_here, name, setting, rounds, threads)


def profile_here(name: str, setting: Setting, rounds: int, threads: int) -> str:
    """A table of the milliseconds that each kind of operation takes in a step of a contestant.

    Beside the products stands what they would take at the rate of one large matrix product, by torch or,
    for an exported contestant, by onnxruntime.
    """
    torch.set_num_threads(threads)
    device = torch.device(setting.device)
    contestant = make(name, setting)
    run = contestant.run
    multiply, macs = (
        _product() if isinstance(run, Exported) else matmul(device, contestant.facts.setting.dtype)
    )
    for _ in range(2):
        run()
        multiply()
    rate = macs / Spread.of([seconds_of(multiply, device) for _ in range(rounds)]).median
    spent: dict[str, float] = {}
    needed: dict[str, float] = {}
    took = _of_file(run, rounds) if isinstance(run, Exported) else _of_torch(run, device, rounds)
    for kind, ms, macs in took:
        spent[kind] = spent.get(kind, 0) + ms / rounds
        needed[kind] = needed.get(kind, 0) + macs / rate / rounds * 1e3
    total = sum(spent.values())
    lines = [[f'{name}, {setting.mode}, batch {setting.batch}', 'ms', 'share', 'ms as one product']]
    for kind, ms in sorted(spent.items(), key=lambda item: -item[1]):
        ideal = f'{needed[kind]:.1f}' if needed[kind] else '-'
        lines.append([kind, f'{ms:.1f}', f'{ms / total:.1%}', ideal])
    return columns([*lines, ['total', f'{total:.1f}', '100.0%', f'{sum(needed.values()):.1f}']])


def _of_torch(
    run: Callable[[], Any], device: torch.device, rounds: int
) -> Iterator[tuple[str, float, int]]:
    """Kind, milliseconds and multiply-accumulates of every operation of so many steps."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as record:
        for _ in range(rounds):
            run()
    for event in record.events():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel, whose time its operation has already
        time = event.self_cpu_time_total
        if device.type == 'cuda':  # torch 2.1 calls it otherwise
            time = getattr(event, 'self_device_time_total', None) or event.self_cuda_time_total
        kind, macs = _kind(event.name, event.input_shapes or [])
        yield kind, time / 1e3, macs


def _of_file(run: Exported, rounds: int) -> Iterator[tuple[str, float, int]]:
    """The same of an exported contestant: of every node, as onnxruntime notes it."""
    for op, ms, shapes, out in run.nodes(rounds):
        if op.endswith(('MatMul', 'Gemm')):
            yield 'matrix products', ms, prod(out) * shapes[0][-1]
        elif op.endswith('Conv'):
            kind, macs = _convolution('mkldnn_convolution', [s for s in shapes if len(s) == 4])
            yield kind, ms, macs
        else:
            yield _kind(op.lower(), [])[0], ms, 0


def _product() -> tuple[Callable[[], object], int]:
    """A large matrix product by onnxruntime, and its multiply-accumulates."""
    side = 2048
    layer = nn.Linear(side, side, bias=False).requires_grad_(False)
    return Exported(layer, torch.randn(side, side)), side**3


def _kind(name: str, shapes: Sequence[Any]) -> tuple[str, int]:
    """The kind of an operation, and its multiply-accumulates if its shapes tell.

    By formulas of our own: torch's (``flop_registry``) are not in torch 2.1, want the shape of the
    output, which a profiler's event has not, and do not tell a 1x1 convolution from the others.
    """
    op = name.removeprefix('aten::')
    if 'attention' in op:
        return 'attention', _attention_macs(op, shapes)
    if op in _PRODUCTS:
        a, b = [s for s in shapes if len(s) > 1][-2:]
        return 'matrix products', prod(a) * b[-1]
    if 'conv' in op:
        maps = [s for s in shapes if len(s) == 4]  # input and kernel; backward, the gradient first
        return _convolution(op, maps[1:] if 'backward' in op else maps)
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


def _convolution(op: str, maps: Sequence[Any]) -> tuple[str, int]:
    if len(maps) < 2:
        return 'all else', 0
    x, kernel = maps[:2]
    if kernel[-1] > 1:
        return ('depthwise convolutions' if kernel[1] == 1 else 'full convolutions'), 0
    # Of stride 1: as many positions come out as go in. Backward makes two products.
    works = op in ('mkldnn_convolution', 'cudnn_convolution', 'convolution_backward')
    return 'matrix products', works * prod(x) * kernel[0] * (2 if 'backward' in op else 1)
