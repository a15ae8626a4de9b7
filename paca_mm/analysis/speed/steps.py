"""What is timed: one step of inference or of training, for each kind of model."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Setting:
    """What a contestant is run on.

    Attributes:
        mode: ``'infer'``, or ``'train'`` for forward, loss and backward, without an optimizer.
        dtype: Of weights and images in inference; of autocast in training.
    """

    mode: str = 'infer'
    batch: int = 4
    height: int = 224
    width: int = 224
    dtype: str = 'fp32'
    device: str = 'cpu'

    def images(self) -> Tensor:
        return torch.randn(self.batch, 3, self.height, self.width, device=self.device)


Step = Callable[[nn.Module, Setting, bool, bool], Callable[[], Any]]


def prepare(
    model: nn.Module, setting: Setting, compiled: bool, cast: bool = True
) -> tuple[Callable[..., Any], torch.dtype, Any]:
    """The callable, the dtype of its inputs, and the context to call it in.

    Args:
        cast: Whether inference in another precision casts the weights; else autocast does it.
    """
    model.train(setting.mode == 'train')
    wanted = DTYPES[setting.dtype]
    context: Any = nullcontext()
    dtype = torch.float32
    if wanted != torch.float32 and (setting.mode == 'train' or not cast):
        context = torch.autocast(setting.device, wanted)
    elif wanted != torch.float32:
        model.to(wanted)
        dtype = wanted
    return torch.compile(model, dynamic=False) if compiled else model, dtype, context


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def classify(
    model: nn.Module, setting: Setting, channels_last: bool, compiled: bool
) -> Callable[[], Any]:
    call, dtype, context = prepare(model, setting, compiled)
    x = _laid_out(setting.images().to(dtype), channels_last)
    labels = torch.randint(1000, (setting.batch,), device=setting.device)

    def infer() -> Any:
        with torch.no_grad():
            return call(x)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with context:
            loss = F.cross_entropy(call(x), labels)
        loss.backward()

    return train if setting.mode == 'train' else infer


def on_maps(head: Any, setting: Setting, channels_last: bool, compiled: bool) -> Callable[[], Any]:
    """A head on maps at 1/4 to 1/32 of the image; a train step ends with the mean of its outputs.

    The host's own losses would follow, which are the same for every head.

    Args:
        head: A module with ``in_channels``, from the maps to one or several outputs.
    """
    call, dtype, context = prepare(head, setting, compiled)
    maps = []
    sizes = map_sizes(setting, len(head.in_channels))
    for channels, size in zip(head.in_channels, sizes, strict=True):
        x = torch.randn(setting.batch, channels, *size, device=setting.device, dtype=dtype)
        maps.append(_laid_out(x, channels_last).requires_grad_(setting.mode == 'train'))

    def infer() -> Any:
        with torch.no_grad():
            return call(maps)

    def train() -> None:
        head.zero_grad(set_to_none=True)
        for x in maps:
            x.grad = None
        with context:
            outs = call(maps)
        sum(out.float().mean() for out in outs).backward()

    return train if setting.mode == 'train' else infer


def map_sizes(setting: Setting, levels: int) -> list[list[int]]:
    """Height and width of the maps at 1/4, 1/8, ... of the image."""
    return [
        [-(-side // (4 * 2**i)) for side in (setting.height, setting.width)] for i in range(levels)
    ]


def host_step(task: str) -> Step:
    """A step as the Runner makes it: the losses of annotated images, or predictions."""

    def step(
        model: Any, setting: Setting, channels_last: bool, compiled: bool
    ) -> Callable[[], Any]:
        from ..toy_inputs import annotations

        # mmcv's ops, non-maximum suppression say, take nothing but fp32.
        call, dtype, context = prepare(model, setting, compiled, cast=False)
        x = _laid_out(setting.images().to(dtype), channels_last)
        samples = annotations(model, task, setting.batch, setting.height, setting.width)
        samples = [sample.to(setting.device) for sample in samples]

        def infer() -> Any:
            with torch.no_grad(), context:
                return call(x, samples, mode='predict')

        def train() -> None:
            model.zero_grad(set_to_none=True)
            with context:
                total, _ = model.parse_losses(call(x, samples, mode='loss'))
            total.backward()

        return train if setting.mode == 'train' else infer

    return step


def macs_of(model: nn.Module, step: Step, setting: Setting) -> int:
    """Multiply-accumulates of a step on one image."""
    from ..flops import count

    one = replace(setting, mode='infer', batch=1, dtype='fp32')
    run = step(model, one, False, False)
    return count(model, lambda _: run()).macs
