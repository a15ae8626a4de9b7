"""RapidNet: a pyramid of convolutions with inverted residuals and dilated convolutions."""

import copy as copying
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.backbone import Backbone
from ..common.recompute import recomputed
from .archs import drop_path_rates, resolve_arch
from .conv import ConvNormAct, init_convs
from .cpe import RepCPE
from .inverted import InvertedResidual
from .keys import LAYOUT
from .mldc import MLDCBlock


class Stem(nn.Module):
    """Two convolutions 3x3 of stride 2, each with norm and GELU.

    Args:
        in_channels: Of the image.
        embed_dims: C.
        norm_cfg: mmcv's words for the norms.
    """

    def __init__(self, in_channels: int, embed_dims: int, norm_cfg: dict | None = None) -> None:
        super().__init__()
        half = embed_dims // 2
        self.halving1 = ConvNormAct(in_channels, half, 3, stride=2, norm_cfg=norm_cfg)
        self.halving2 = ConvNormAct(half, embed_dims, 3, stride=2, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, ceil(H / 4), ceil(W / 4))."""
        return self.halving2(self.halving1(x))


@MODELS.register_module()
class RapidNet(Backbone):
    """RapidNet backbone.

    `RapidNet: Multi-Level Dilated Convolution Based Mobile Backbone
    <https://arxiv.org/abs/2412.10995>`_, WACV 2025. Convolutions of dilation 2 and 3 beside each
    other enlarge the receptive field in the late stages; the early ones are inverted residuals.

    Strides are 4, 8, 16 and 32; an image may have any size, odd ones too (a side of n becomes
    ceil(n / 2) at each halving).

    Args:
        arch: ``'ti'``, ``'s'``, ``'m'``, ``'b'``, or a dict with ``embed_dims``, ``inverted_blocks``
            and ``mldc_blocks``, one number per stage.
        in_channels: Channels of the image.
        out_indices: Stages to return, counted from 0. Later stages than needed are not built.
        drop_path_rate: Stochastic depth, by the published rule: a linear list over all blocks in
            which only MLDC blocks move on (:func:`.archs.drop_path_rates`).
        norm_cfg: mmcv's words for the norms, ``dict(type='SyncBN')`` say. Default: BatchNorm.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1 to i. Frozen parts
            stay in eval mode.
        norm_eval: Keep BatchNorms in eval mode while training.
        with_cp: Recompute each block in the backward pass: same numbers, less memory, more time.
        deploy: Build the folded form, for weights of :meth:`switch_to_deploy`; it cannot be trained.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint, official or ours, a
            bare backbone or a complete model (``prefix='backbone.'`` narrows it), and raises unless
            every parameter is loaded. Of an official file it takes the averaged weights
            (``state_dict_ema``). Default: the published initialisation.
        pretrained: A file or URL, the same as such an ``init_cfg``; mmseg's segmentors hand it on.

    Raises:
        UserError: (a ValueError) An argument is not one of the above; the message says what is.

    Example:
        >>> import torch
        >>> from paca_mm.models import RapidNet
        >>> features = RapidNet('ti')(torch.rand(1, 3, 224, 320))
        >>> [tuple(f.shape) for f in features]
        [(1, 32, 56, 80), (1, 64, 28, 40), (1, 112, 14, 20), (1, 224, 7, 10)]
    """

    layout = LAYOUT

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'ti',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.1,
        norm_cfg: dict | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        sizes = resolve_arch(arch)
        embed_dims = sizes['embed_dims']
        inverted, mldc = sizes['inverted_blocks'], sizes['mldc_blocks']
        super().__init__(
            len(embed_dims), in_channels, out_indices, frozen_stages, norm_eval, with_cp,
            drop_path_rate, init_cfg, pretrained,
        )  # fmt: skip
        self.embed_dims = embed_dims
        self.num_features = tuple(embed_dims[i] for i in self.out_indices)
        self.depths = tuple(inverted[i] + mldc[i] for i in range(self.num_stages))
        self.deploy = False

        self.stem = Stem(in_channels, embed_dims[0], norm_cfg)
        self.stages = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, inverted, mldc)
        for i in range(self.num_stages):
            stage = nn.ModuleList()
            if i:  # the downsampling is a stage's first module; the official keys count it so
                stage.append(
                    ConvNormAct(
                        embed_dims[i - 1], embed_dims[i], 3, stride=2, norm_cfg=norm_cfg, act=False
                    )
                )
            kinds = [InvertedResidual] * inverted[i] + [MLDCBlock] * mldc[i]
            for kind, rate in zip(kinds, rates[i], strict=True):
                stage.append(kind(embed_dims[i], rate, norm_cfg))
            self.stages.append(stage)

        init_convs(self)  # norms keep weight 1 and bias 0
        self._settle()
        if deploy:
            self.switch_to_deploy()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract the feature maps of a batch of images.

        Args:
            x: (B, in_channels, H, W), normalised.

        Returns:
            For each of ``out_indices`` a contiguous map (B, C_i, ceil(H / stride_i),
            ceil(W / stride_i)).
        """
        self._check_input(x)
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        outs: list[Tensor] = []
        stage: Any
        for i, stage in enumerate(self.stages):
            for layer in stage:
                x = recomputed(layer, x) if recompute else layer(x)
            if i in self.out_indices:
                # mmcv's ops (RoIAlign and others) read raw memory as contiguous, whatever the
                # strides say, and a neck's convolutions pass a channels-last layout on to them.
                outs.append(x.contiguous())
        return tuple(outs)

    def switch_to_deploy(self, copy: bool = False) -> 'RapidNet':
        """Fold every BatchNorm into its convolution, and positional encodings into one kernel.

        The outputs stay equal up to rounding. Other norms than BatchNorm stay as they are. The
        folded model cannot be trained; its weights load into ``RapidNet(deploy=True)``.

        Args:
            copy: Leave this model as it is and fold a copy.

        Returns:
            The folded model.
        """
        model = copying.deepcopy(self) if copy else self
        for module in model.modules():
            if isinstance(module, (ConvNormAct, RepCPE)):
                module.fold()
        model.deploy = True
        return model.eval()

    def train(self, mode: bool = True) -> 'RapidNet':
        """Set the mode; see :meth:`.Backbone.train`.

        Raises:
            UserError: A folded model is asked to train.
        """
        if mode and self.deploy:
            raise UserError(
                'RapidNet is in deploy mode: its norms are folded into its convolutions, and without '
                'them it does not train.\n'
                '  to fix it: deploy=False in the backbone, with the weights from before '
                'switch_to_deploy(); switch_to_deploy(copy=True) leaves a model that trains.'
            )
        super().train(mode)
        return self

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.stages[stage - 1] if stage else self.stem]

    def _layer_of(self, name: str) -> int | None:
        part, *rest = name.split('.')
        if part == 'stem':
            return 0
        if part != 'stages':
            return None
        stage, layer = int(rest[0]), int(rest[1])
        # The downsampling counts with the first block of its stage.
        return sum(self.depths[:stage]) + 1 + (max(layer - 1, 0) if stage else layer)
