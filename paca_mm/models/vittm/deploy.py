"""ViTTM for deployment: images of any size, whose positions are resampled inside of the graph."""

from collections.abc import Container
from math import lcm
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .backbone import ViTTM
from .embed import PatchEmbed


def deployed(model: nn.Module, form: str) -> None:
    """Exchange what depends on the size of the images, in place.

    Args:
        model: In eval mode; it returns what it returned before, up to rounding.
        form: Is the same for every form.
    """
    for module in list(model.modules()):
        if type(module) is ViTTM:
            module.__class__ = _ViTTM
        elif type(module) is PatchEmbed:
            module.__class__ = _PatchEmbed


def multiple(model: nn.Module) -> int:
    """What the sides of an image must be multiples of."""
    found = 1
    for module in model.modules():
        if isinstance(module, ViTTM) and not module.pad_to_patch:
            found = lcm(found, module.memory_patch, module.process_patch)
    return found


class _ViTTM(ViTTM):
    """A graph cannot refuse an image; whoever runs it knows :func:`multiple`."""

    def _padded(self, x: Tensor) -> Tensor:
        if not self.pad_to_patch:
            return x
        step = lcm(self.memory_patch, self.process_patch)
        more = [(step - side % step) % step for side in x.shape[2:]]
        return F.pad(x, (0, more[1], 0, more[0]))

    def streams(self, x: Tensor, indices: Container[int]) -> list[tuple[Tensor, Tensor]]:
        x = self._padded(x)
        memory, process = self.memory_embed(x), self.process_embed(x)
        found = []
        for i, block in enumerate(self.blocks):
            memory, process = block(memory, process)
            if i in indices:
                found.append((memory, process))
        return found


class _PatchEmbed(PatchEmbed):
    """Positions by two matrices, whose entries are computed from the size of the map."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj(x).permute(0, 2, 3, 1)
        height, width = self.grid
        positions = self.pos_embed[0]  # h w, C
        rows = resampling(self.grid[0], tokens.shape[1], x)  # H, h
        columns = resampling(self.grid[1], tokens.shape[2], x)  # W, w
        along = (rows @ positions.reshape(height, -1)).reshape(
            -1, width, positions.shape[-1]
        )  # H, w, C
        return tokens + columns @ along


def resampling(old: int, new: Any, like: Tensor) -> Tensor:
    """(new, old): the weights of torch's bicubic, antialiased resizing of a line, a = -0.5.

    Args:
        old: Points that there are.
        new: Points that are wanted, a number that a graph may compute.
        like: Whose dtype and device it has.
    """
    points = torch.arange(old, device=like.device).to(like.dtype)
    scale = old / (torch.arange(new, device=like.device).to(like.dtype) * 0 + new)  # new times
    at = (torch.arange(new, device=like.device).to(like.dtype) + 0.5) * scale - 0.5
    wide = scale.clamp(min=1).unsqueeze(1)
    x = ((points.unsqueeze(0) - at.unsqueeze(1)) / wide).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    zero = torch.zeros_like(x)
    weights = torch.where(x < 1, near, torch.where(x < 2, far, zero))
    return weights / weights.sum(1, keepdim=True)
