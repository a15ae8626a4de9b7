"""PaCa-ViT: a pyramid vision transformer with patch-to-cluster attention."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from ..common.backbone import Backbone
from ..common.clusters import ClusterMaps
from ..common.tokens import as_image
from .archs import resolve_arch
from .attention import PaCaAttention, castling_attention
from .block import PaCaBlock
from .clustering import CLUSTERINGS
from .downsample import NORM_EPS, PatchEmbed, Transition
from .ffn import ConvFFN
from .keys import LAYOUT
from .teacher import ClusteringTeacher


@MODELS.register_module()
class PaCaViT(Backbone):
    """PaCa-ViT backbone.

    `PaCa-ViT: Learning Patch-to-Cluster Attention in Vision Transformers
    <https://arxiv.org/abs/2203.11987>`_, CVPR 2023. Keys and values of the attention are M learned
    clusters instead of all N patches, so the cost grows with N, not with its square.

    Every stage ends in a LayerNorm, whose output is both the feature map that is returned and the
    input of the next stage. Strides are 4, 8, 16 and 32; an image may have any size, odd ones too
    (a side of n becomes ceil(n / 2) at each halving).

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'tiny_teacher'``, ``'small_teacher'``,
            ``'base_teacher'``, or a dict with ``embed_dims``, ``num_heads``, ``depths``,
            ``mlp_ratios`` (and ``teacher_depths``), one number per stage.
        in_channels: Channels of the image.
        clustering: ``'conv'``, ``'mlp'`` or ``'linear'``: the network that scores patches. An arch
            with ``teacher_depths`` clusters by its teacher instead and takes no other word here.
        num_clusters: M of each stage; 0 makes a stage attend to all its patches. Default: 100, and
            0 in the last stage (a teacher: 100 in all).
        cluster_every: k per stage, or one for all: every k-th block of the stage clusters again and
            the blocks between reuse its assignment; 1 is block-wise, 0 (default) lets only the first
            block cluster (stage-wise).
        plain_attention: What attends in stages without clusters: ``'softmax'``; ``'castling'``, which is
            the family Castling's and whose cost grows linearly with the patches; or a dict with further
            arguments of ``CastlingAttention``. ``dict(softmax_branch=True)`` adds the softmax branch,
            for training with ``paca_mm.CastlingHook``; ``'castling'`` alone leaves it out.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over the blocks.
        out_indices: Stages to return, counted from 0. Later stages than needed are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1 to i, with their norms
            and their part of the teacher's bottom-up path. Frozen parts stay in eval mode.
        norm_eval: Keep BatchNorms (only the teacher has them) in eval mode while training.
        with_cp: Recompute each block in the backward pass: same numbers, less memory, more time.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint, official or ours, a
            bare backbone or a complete model (``prefix='backbone.'`` narrows it), and raises unless
            every parameter is loaded or belongs to a cluster layer of another size. Default: the
            paper's initialisation.
        pretrained: A file or URL, the same as such an ``init_cfg``; mmseg's segmentors hand it on.

    Raises:
        UserError: (a ValueError) An argument is not one of the above; the message says what is.

    Example:
        >>> import torch
        >>> from paca_mm.models import PaCaViT
        >>> features = PaCaViT('tiny')(torch.rand(1, 3, 224, 320))
        >>> [tuple(f.shape) for f in features]
        [(1, 96, 56, 80), (1, 192, 28, 40), (1, 320, 14, 20), (1, 384, 7, 10)]
    """

    layout = LAYOUT

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
        in_channels: int = 3,
        clustering: str = 'conv',
        num_clusters: Sequence[int] | None = None,
        cluster_every: int | Sequence[int] = 0,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        plain_attention: str | Mapping[str, Any] = 'softmax',
        pretrained: str | None = None,
    ) -> None:
        sizes = resolve_arch(arch)
        embed_dims, depths = sizes['embed_dims'], sizes['depths']
        num_stages = len(depths)
        super().__init__(
            num_stages, in_channels, out_indices, frozen_stages, norm_eval, with_cp,
            drop_path_rate, init_cfg, pretrained,
        )  # fmt: skip
        has_teacher = 'teacher_depths' in sizes
        if num_clusters is None:
            num_clusters = (100,) * (num_stages - 1) + (100 if has_teacher else 0,)
        if isinstance(cluster_every, int):
            cluster_every = (cluster_every,) * num_stages
        _check_clustering(clustering, num_clusters, cluster_every, num_stages, has_teacher)
        castling = _castling_arguments(plain_attention, num_clusters)

        self.embed_dims = embed_dims
        self.num_clusters = tuple(num_clusters)
        self.num_features = tuple(embed_dims[i] for i in self.out_indices)
        self.depths = depths[: self.num_stages]

        self.patch_embed = PatchEmbed(in_channels, embed_dims[0])
        self.teacher: ClusteringTeacher | None = None
        if has_teacher:
            wanted = [m if i < self.num_stages else 0 for i, m in enumerate(num_clusters)]
            self.teacher = ClusteringTeacher(embed_dims, sizes['teacher_depths'], wanted)
        total = sum(depths)
        drop_path = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        for i in range(self.num_stages):
            if i:
                self.add_module(f'transition{i}', Transition(embed_dims[i - 1], embed_dims[i]))
            stage = nn.ModuleList()
            for j in range(depths[i]):
                network = None
                if num_clusters[i] and not has_teacher and _clusters(j, cluster_every[i]):
                    network = CLUSTERINGS[clustering](
                        embed_dims[i], num_clusters[i], sizes['mlp_ratios'][i]
                    )
                attn: nn.Module
                if castling is not None and not num_clusters[i]:
                    attn = castling_attention(embed_dims[i], sizes['num_heads'][i], castling)
                else:
                    attn = PaCaAttention(
                        embed_dims[i], sizes['num_heads'][i], num_clusters[i], network
                    )
                stage.append(
                    PaCaBlock(
                        embed_dims[i],
                        attn,
                        ConvFFN(embed_dims[i], int(embed_dims[i] * sizes['mlp_ratios'][i])),
                        drop_path[sum(depths[:i]) + j],
                    )
                )
            self.add_module(f'stage{i + 1}', stage)
            self.add_module(f'norm{i + 1}', nn.LayerNorm(embed_dims[i], eps=NORM_EPS))

        self.apply(_init_published)
        self._settle()

    def _stages(self) -> list[tuple[Transition | None, nn.ModuleList, nn.LayerNorm]]:
        """What leads into each stage, its blocks and its norm; the official keys keep them apart."""
        return [
            (
                getattr(self, f'transition{i}') if i else None,
                getattr(self, f'stage{i + 1}'),
                getattr(self, f'norm{i + 1}'),
            )
            for i in range(self.num_stages)
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract the feature maps of a batch of images.

        Args:
            x: (B, in_channels, H, W), normalised.

        Returns:
            For each of ``out_indices`` a contiguous map (B, C_i, ceil(H / stride_i),
            ceil(W / stride_i)).
        """
        return self._forward(x)

    def cluster_assignments(self, x: Tensor, block: int = 0) -> tuple[Tensor | None, ...]:
        """Which patches each cluster is made of, stage by stage.

        Args:
            x: (B, in_channels, H, W), normalised.
            block: The block of each stage whose assignment is wanted; it matters only where a stage
                clusters more than once (``cluster_every``).

        Returns:
            For every stage (B, M_i, H_i, W_i), each cluster's weights over the positions, which sum
            to 1; None for a stage without clusters.
        """
        assignments: list[Tensor | None] = []

        def watch(
            stage: int, index: int, module: PaCaBlock, before: Tensor, z: Tensor | None
        ) -> None:
            if index == block % self.depths[stage]:
                assignments.append(None if z is None else z.unflatten(2, before.shape[1:3]))

        self._forward(x, watch)
        return tuple(assignments)

    @property
    def has_clusters(self) -> bool:
        """Whether a stage that is built attends to clusters."""
        return any(self.num_clusters[: self.num_stages])

    def watch_clusters(
        self,
        x: Tensor,
        see: Callable[[ClusterMaps], None],
        wanted: Callable[[int, int], bool] = lambda stage, block: True,
    ) -> None:
        """Run a batch and show the clusters of its blocks, one block after the other.

        Args:
            x: (B, in_channels, H, W), normalised.
            see: Called in forward order with each block that attends to clusters.
            wanted: ``(stage, block) -> bool``, both counted from 0: what is shown. The attention of
                the others is not computed.
        """

        def watch(
            stage: int, index: int, module: PaCaBlock, before: Tensor, z: Tensor | None
        ) -> None:
            if z is None or not wanted(stage, index):
                return
            size = before.shape[1:3]
            attention = module.attn.reads(module.norm1(before), z).unflatten(2, size)
            see(ClusterMaps(stage, index, z.unflatten(2, size), attention))

        self._forward(x, watch)

    def _forward(self, x: Tensor, watch: Callable[..., None] | None = None) -> tuple[Tensor, ...]:
        """Run the pyramid; ``watch`` is called behind every block, with its stage and its number, the
        block, what went into it, and the assignment that it used.
        """
        self._check_input(x)
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))  # B, H, W, C
        maps, given = self.teacher(x) if self.teacher is not None else (None, None)
        outs: list[Tensor] = []
        for i, (transition, blocks, norm) in enumerate(self._stages()):
            if transition is not None:
                x = transition(x)
            z = given[i] if given is not None else None
            for j, block in enumerate(blocks):
                before = x if watch is not None else None  # nobody else keeps it in memory
                if self.with_cp and self.training and torch.is_grad_enabled():
                    x, z = cp.checkpoint(block, x, z, use_reentrant=False)
                else:
                    x, z = block(x, z)
                if watch is not None:
                    watch(i, j, block, before, z)
            if maps is not None:
                x = x + maps[i]
            x = norm(x)
            if i in self.out_indices:
                # mmcv's ops (RoIAlign and others) read raw memory as contiguous, whatever the strides
                # say, and a neck's convolutions pass a channels-last layout on to them.
                outs.append(as_image(x).contiguous())
        return tuple(outs)

    def _stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.patch_embed]
        parts = [f'transition{stage - 1}'] if stage > 1 else []
        modules = [self.get_submodule(name) for name in (*parts, f'stage{stage}', f'norm{stage}')]
        if self.teacher is not None:  # the bottom-up path
            modules += [self.teacher.get_submodule(name) for name in (*parts, f'stage{stage}')]
        return modules

    def _layer_of(self, name: str) -> int | None:
        part, _, rest = name.removeprefix('teacher.').partition('.')
        kind, number = part.rstrip('0123456789'), part.lstrip('abcdefghijklmnopqrstuvwxyz_')
        if kind == 'patch_embed':
            return 0
        if not number:
            return None
        stage = min(int(number) + (kind == 'transition'), self.num_stages)
        first = sum(self.depths[: stage - 1]) + 1
        if kind == 'norm':
            return first + self.depths[stage - 1] - 1
        if kind == 'stage' and not name.startswith('teacher.'):
            return first + int(rest.partition('.')[0])
        return first


def _clusters(block: int, every: int) -> bool:
    """Whether a block of a stage clusters by itself."""
    return block == 0 if every == 0 else block % every == 0


def _castling_arguments(
    plain_attention: str | Mapping[str, Any], num_clusters: Sequence[int]
) -> dict[str, Any] | None:
    """The arguments of Castling's attention where ``plain_attention`` asks for it, or None."""
    if plain_attention == 'softmax':
        return None
    if plain_attention != 'castling' and not isinstance(plain_attention, Mapping):
        raise UserError(
            f"plain_attention={plain_attention!r} is unknown; choose 'softmax', 'castling', or a dict "
            'with arguments of CastlingAttention.'
        )
    if all(num_clusters):
        raise UserError(
            f'plain_attention={plain_attention!r} is for stages without clusters, but num_clusters='
            f'{tuple(num_clusters)} leaves none: leave it out, or give a stage 0 clusters.'
        )
    given = {} if isinstance(plain_attention, str) else plain_attention
    return {'softmax_branch': False, **given}


def _init_published(module: nn.Module) -> None:
    """The official initialisation; norms keep weight 1 and bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _check_clustering(
    clustering: str,
    num_clusters: Sequence[int],
    cluster_every: Sequence[int],
    num_stages: int,
    has_teacher: bool,
) -> None:
    if clustering not in CLUSTERINGS:
        raise UserError(
            f'clustering={clustering!r} is unknown; choose one of '
            f'{", ".join(map(repr, CLUSTERINGS))}, or an arch with a teacher.'
        )
    for name, values in (('num_clusters', num_clusters), ('cluster_every', cluster_every)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise UserError(f'{name} must list {num_stages} numbers, but it is {values!r}.')
        if len(values) != num_stages:
            raise UserError(
                f'{name}={tuple(values)} has {len(values)} numbers, but the arch has {num_stages} '
                f'stages: give one number per stage.'
            )
        if any(not isinstance(v, int) or v < 0 for v in values):
            raise UserError(f'{name}={tuple(values)} must hold whole numbers, 0 or more.')
    if has_teacher and (clustering != 'conv' or any(cluster_every)):
        raise UserError(
            f'an arch with teacher_depths clusters by its teacher, so clustering={clustering!r} and '
            f'cluster_every={tuple(cluster_every)} would do nothing: leave both out, or choose an '
            'arch without a teacher.'
        )
