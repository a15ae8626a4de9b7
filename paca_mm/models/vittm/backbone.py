"""ViTTM: a plain (not pyramidal) backbone of two token streams."""

from collections.abc import Container, Mapping, MutableMapping, Sequence
from math import isqrt, lcm
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.backbone import Backbone
from ..common.recompute import recomputed
from ..common.tokens import as_image
from .archs import resolve_arch
from .block import ViTTMBlock
from .embed import PatchEmbed, resample
from .keys import LAYOUT

#: What a backbone may return of its two streams.
OUT_TYPES = ('process', 'both', 'raw')


@MODELS.register_module()
class ViTTM(Backbone):
    """Vision Token Turing Machine.

    `Token Turing Machines are Efficient Vision Models <https://arxiv.org/abs/2409.07613>`_, WACV 2025.
    An image is cut into two streams of tokens. A ViT block computes with the *process* tokens; before
    it they read from the *memory* tokens, after it they write to them, by linear attention. So the
    costly part sees few tokens, and the many cost little.

    The maps of all blocks have the size of the process grid: it is no pyramid. For heads that want
    one, put mmseg's ``Feature2Pyramid`` between.

    An image may have any size that both patches divide; the learned positions are resampled to its
    grids. No pixel is dropped: another size is an error or, with ``pad_to_patch``, padded (the official
    segmentation code cuts off what does not fill a patch).

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, or a dict with ``embed_dims``,
            ``num_layers``, ``num_heads`` and maybe ``mlp_ratio`` (4).
        img_size: Side, or height and width, of the images that the positions are made for.
        memory_patch: Side of a memory token's patch in pixels.
        process_patch: Side of a process token's patch in pixels.
        in_channels: Channels of the image.
        out_indices: Blocks to return, counted from 0; negative ones count from the end. Later blocks
            than needed are not built.
        out_type: What to return of a block: ``'process'``, the process tokens as a map; ``'both'``,
            these and the memory tokens as one map of 2 C channels, process first, for equal patches;
            ``'raw'``, the pair of memory and process tokens, which a classifier reads. With
            ``'process'`` the last block does not write, since nobody would see it.
        pad_to_patch: Pad an image with zeros, at the bottom and on the right, to the next size that
            both patches divide. The maps are then those of the padded image.
        drop_path_rate: Stochastic depth: probability to drop what a sample reads or writes in a
            block, the same in all blocks (as in the official segmentation code).
        frozen_stages: -1 freezes nothing, 0 both embeddings with their positions, i these and blocks
            1 to i. Frozen parts stay in eval mode.
        with_cp: Recompute each block in the backward pass: same numbers, less memory, more time.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint, official or ours, a
            bare backbone or a complete model (``prefix='backbone.'`` narrows it), and raises unless
            every parameter is loaded. Positions of another image size are resampled, and the log says
            so. Default: timm's initialisation of a ViT.
        pretrained: A file or URL, the same as such an ``init_cfg``; mmseg's segmentors hand it on.

    Raises:
        UserError: (a ValueError) An argument is not one of the above, or an image does not fit the
            patches; the message says what does.

    Example:
        >>> import torch
        >>> from paca_mm.models import ViTTM
        >>> model = ViTTM('tiny', memory_patch=16, process_patch=32, out_indices=(3, 11))
        >>> [tuple(f.shape) for f in model(torch.rand(1, 3, 224, 320))]
        [(1, 192, 7, 10), (1, 192, 7, 10)]
    """

    layout = LAYOUT

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'base',
        img_size: int | Sequence[int] = 224,
        memory_patch: int = 28,
        process_patch: int = 28,
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        out_type: str = 'process',
        pad_to_patch: bool = False,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        sizes = resolve_arch(arch)
        num_layers, channels = sizes['num_layers'], sizes['embed_dims']
        super().__init__(
            num_layers, in_channels, out_indices, frozen_stages, norm_eval=False, with_cp=with_cp,
            drop_path_rate=drop_path_rate, init_cfg=init_cfg,
            pretrained=pretrained,
        )  # fmt: skip
        for name, patch in (('memory_patch', memory_patch), ('process_patch', process_patch)):
            if not isinstance(patch, int) or patch < 1:
                raise UserError(f'{name}={patch!r} must be a whole number of pixels above 0.')
        if out_type not in OUT_TYPES:
            raise UserError(
                f'out_type={out_type!r} is unknown; known: {", ".join(map(repr, OUT_TYPES))}.'
            )
        if out_type == 'both' and memory_patch != process_patch:
            raise UserError(
                "out_type='both' lays process and memory tokens side by side, which takes equal "
                f'grids, but memory_patch={memory_patch} and process_patch={process_patch}.\n'
                "  to fix it: out_type='process', or equal patches (with the checkpoint for them)."
            )
        self.memory_patch = memory_patch
        self.process_patch = process_patch
        self.out_type = out_type
        self.pad_to_patch = pad_to_patch
        self.embed_dims = (channels,) * num_layers
        self.num_features = (channels * (2 if out_type == 'both' else 1),) * len(self.out_indices)
        self.depths = (1,) * self.num_stages

        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        height, width = self._fitting(height, width)
        grids = [(height // patch, width // patch) for patch in (memory_patch, process_patch)]
        self.memory_embed = PatchEmbed(in_channels, channels, memory_patch, grids[0])
        self.process_embed = PatchEmbed(in_channels, channels, process_patch, grids[1])
        self.blocks = nn.ModuleList(
            ViTTMBlock(
                channels,
                sizes['num_heads'],
                sizes['mlp_ratio'],
                drop_path_rate,
                writes=i < self.num_stages - 1 or out_type != 'process',
            )
            for i in range(self.num_stages)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self._settle()

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels of the image apart the positions of each block's map are: all the same."""
        return (self.process_patch,) * len(self.embed_dims)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        """Extract the features of a batch of images.

        Args:
            x: (B, in_channels, height, width), normalised.

        Returns:
            For each of ``out_indices``, with H = height / process_patch and W likewise:
            a contiguous map (B, C, H, W), or (B, 2 C, H, W) of both streams; or with
            ``out_type='raw'`` a pair of tokens, (B, H', W', C) of the memory, with H' = height /
            memory_patch, and (B, H, W, C) of the process. ``tokens.flatten(1, 2)`` is (B, N, C).
        """
        return tuple(self._output(*streams) for streams in self.streams(x, self.out_indices))

    def streams(self, x: Tensor, indices: Container[int]) -> list[tuple[Tensor, Tensor]]:
        """Memory and process tokens, (B, H', W', C) and (B, H, W, C), after some of the blocks.

        Args:
            x: See :meth:`forward`.
            indices: Which blocks.
        """
        self._check_input(x)
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        x = self._padded(x).contiguous(memory_format=torch.channels_last)
        memory, process = self.memory_embed(x), self.process_embed(x)
        found = []
        for i, block in enumerate(self.blocks):
            if recompute:
                memory, process = recomputed(block, memory, process)
            else:
                memory, process = block(memory, process)
            if i in indices:
                found.append((memory, process))
        return found

    def _output(self, memory: Tensor, process: Tensor) -> Any:
        if self.out_type == 'raw':
            return memory, process
        x = as_image(process)
        if self.out_type == 'both':
            x = torch.cat([x, as_image(memory)], 1)
        return x.contiguous()  # mmcv's ops read raw memory as contiguous

    def _fitting(self, height: int, width: int) -> tuple[int, int]:
        """The size at which an image of this size is cut into patches."""
        step = lcm(self.memory_patch, self.process_patch)
        fitting = (-(-height // step) * step, -(-width // step) * step)
        if fitting != (height, width) and not self.pad_to_patch:
            smaller = max(height // step, 1) * step, max(width // step, 1) * step
            raise UserError(
                f'an image of {height}x{width} does not fit memory_patch={self.memory_patch} and '
                f'process_patch={self.process_patch}: its sides must be multiples of {step}.\n'
                f'  to fix it: images of {fitting[0]}x{fitting[1]} or {smaller[0]}x{smaller[1]}, or '
                'pad_to_patch=True in the backbone.'
            )
        return fitting

    def _padded(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        fitting = self._fitting(height, width)
        if fitting == (height, width):
            return x
        return F.pad(x, (0, fitting[1] - width, 0, fitting[0] - height))

    def fit_state(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        """Resample positions of another image size, and leave out what the last block would write.

        Args:
            state: A state dict with our names, changed in place.
            prefix: What stands before the backbone's keys.

        Raises:
            UserError: Positions are not of a square grid, so that nobody knows which one.
        """
        for name in ('memory_embed', 'process_embed'):
            embed: Any = getattr(self, name)
            positions = state.get(f'{prefix}{name}.pos_embed')
            weight = state.get(f'{prefix}{name}.proj.weight')
            if not isinstance(positions, Tensor) or not isinstance(weight, Tensor):
                continue
            own = embed.pos_embed.shape
            # Patches of another size are another model, which the comparison of shapes will say.
            if positions.shape == own or weight.shape != embed.proj.weight.shape:
                continue
            side = isqrt(positions.shape[1])
            if side**2 != positions.shape[1]:
                raise UserError(
                    f'{prefix}{name}.pos_embed has {positions.shape[1]} positions, which are no square '
                    f'grid, so they cannot be resampled to {embed.grid[0]}x{embed.grid[1]}.\n'
                    '  to fix it: the img_size in the backbone that the checkpoint was trained with.'
                )
            state[f'{prefix}{name}.pos_embed'] = resample(positions, (side, side), embed.grid)
            print_log(
                f'{prefix}{name}.pos_embed: positions resampled from {side}x{side} to '
                f'{embed.grid[0]}x{embed.grid[1]}',
                logger='current',
            )
        if self.out_type == 'process':
            unwritten = f'{prefix}blocks.{self.num_stages - 1}.write.'
            for key in [key for key in state if key.startswith(unwritten)]:
                del state[key]

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.blocks[stage - 1]] if stage else [self.memory_embed, self.process_embed]

    def no_weight_decay(self) -> set[str]:
        """Both position embeddings."""
        return {'memory_embed.pos_embed', 'process_embed.pos_embed'}

    def _layer_of(self, name: str) -> int | None:
        part, *rest = name.split('.')
        if part in ('memory_embed', 'process_embed'):
            return 0
        return int(rest[0]) + 1 if part == 'blocks' else None
