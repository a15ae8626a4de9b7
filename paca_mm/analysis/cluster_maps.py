"""The clusters of a model: what they are made of, and which patches read them.

Any model whose backbone shows its clusters will do, whatever its task and its family; see
:mod:`paca_mm.models.common.clusters`.
"""

import importlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.families import Family, families
from paca_mm.models.common.clusters import ClusterMaps

__all__ = [
    'ClusterMaps',
    'class_clusters',
    'cluster_maps',
    'clustering_backbone',
    'mass',
    'partition',
    'seen_through',
    'watch_clusters',
]


def clustering_backbone(model: nn.Module) -> Any:
    """The part of a model that shows its clusters: its backbone, or the model itself.

    Raises:
        UserError: It has none, or one without clusters.
    """
    found = next((m for m in model.modules() if hasattr(type(m), 'watch_clusters')), None)
    if found is None:
        backbone = type(getattr(model, 'backbone', model)).__name__
        known = ', '.join(f"type='paca_mm.{family.backbone}'" for family in _with_clusters())
        raise UserError(
            f'the backbone of this model is {backbone}, which has no clusters to look at.\n'
            f'  to fix it: name a config with {known or "a backbone that attends to clusters"}.'
        )
    if not found.has_clusters:
        raise UserError(
            f'no stage of this {type(found).__name__} has clusters: each attends to all its patches.'
        )
    return found


def _with_clusters() -> Iterator[Family]:
    for family in families().values():
        if family.backbone:
            module = importlib.import_module(family.members[family.backbone].module)
            if hasattr(getattr(module, family.backbone), 'watch_clusters'):
                yield family


@torch.no_grad()
def watch_clusters(
    model: nn.Module,
    inputs: Tensor,
    see: Callable[[ClusterMaps], None],
    stages: Collection[int] | None = None,
    blocks: Collection[int] | None = None,
) -> None:
    """Run a batch through the backbone of a model and show its blocks one after the other.

    The maps of one block of a large image take 100 MB; ``see`` keeps what it needs of them.

    Args:
        model: A host's model or a bare backbone, in evaluation mode.
        inputs: (B, C, H, W), as the model's preprocessor returns them.
        see: Called with every block, in forward order.
        stages: Which stages, counted from 0; all by default.
        blocks: Which blocks of each, counted from 0, or from the end if negative; all by default.

    Raises:
        UserError: The model has no clusters.
    """
    backbone = clustering_backbone(model)

    def wanted(stage: int, block: int) -> bool:
        depth = backbone.depths[stage]
        return (stages is None or stage in stages) and (
            blocks is None or block in blocks or block - depth in blocks
        )

    backbone.watch_clusters(inputs, see, wanted)


def cluster_maps(
    model: nn.Module,
    inputs: Tensor,
    stages: Collection[int] | None = None,
    blocks: Collection[int] | None = None,
) -> list[ClusterMaps]:
    """The same as a list: what the clusters of each block are made of, and how patches read them.

    Example:
        >>> import torch
        >>> from paca_mm.models import PaCaViT
        >>> found = cluster_maps(PaCaViT('tiny').eval(), torch.rand(1, 3, 64, 96), blocks=[-1])
        >>> [(m.stage, m.block, tuple(m.assignment.shape), tuple(m.attention.shape)) for m in found]
        ... # doctest: +NORMALIZE_WHITESPACE
        [(0, 1, (1, 100, 16, 24), (1, 2, 16, 24, 100)),
         (1, 1, (1, 100, 8, 12), (1, 4, 8, 12, 100)),
         (2, 3, (1, 100, 4, 6), (1, 8, 4, 6, 100))]
    """
    found: list[ClusterMaps] = []
    watch_clusters(model, inputs, found.append, stages, blocks)
    return found


@torch.no_grad()
def class_clusters(model: Any, inputs: Tensor) -> ClusterMaps | None:
    """The clusters of a segmentor's head, of which each is a class; None if its head has none.

    Args:
        model: A host's model, in evaluation mode.
        inputs: (B, C, H, W), as the model's preprocessor returns them.
    """
    head = next((m for m in model.modules() if hasattr(type(m), 'class_clusters')), None)
    return None if head is None else head.class_clusters(model.extract_feat(inputs))


def mass(attention: Tensor) -> Tensor:
    """The share of all attention that each cluster receives: (B, h, H, W, M) -> (B, M), which sum to 1.

    A cluster that nobody reads has next to none, whatever it is made of.
    """
    return attention.mean((1, 2, 3))


def partition(assignment: Tensor) -> Tensor:
    """The cluster in which each position weighs most: (B, M, H, W) -> (B, H, W)."""
    return assignment.argmax(1)


def seen_through(attention: Tensor, assignment: Tensor) -> Tensor:
    """What one position reads of the image through the clusters.

    Args:
        attention: Of the position over the clusters, (..., M).
        assignment: (M, H, W).

    Returns:
        (..., H, W), which sum to 1.
    """
    return torch.einsum('...m,mhw->...hw', attention, assignment)
