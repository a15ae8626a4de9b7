"""What the clusters of a model are on one image, ready to be drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from numpy.typing import NDArray
from torch import Tensor

from paca_mm.analysis.cluster_maps import (
    ClusterMaps,
    class_clusters,
    clustering_backbone,
    watch_clusters,
)
from paca_mm.engine.drawing import Look

#: A map of more positions on its longer side is brought down: no picture shows more.
MOST_CELLS = 96

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """The clusters of one block over one image, as arrays.

    A cell is one position of the stage, or a square of ``factor`` x ``factor`` of them where the image
    is large. Padding beside the image is left out.

    Attributes:
        stage: Counted from 0; -1 are the classes of a head.
        block: In its stage, counted from 0.
        depth: How many blocks the stage has.
        assignment: What each cluster is made of, (M, rows, columns); a cluster's sum to 1, less what
            lies in the padding.
        attention: What the cells read, (heads, rows, columns, M); over the clusters they sum to 1.
        cell: The side of a cell, in pixels of the image.
        names: Of the clusters, where they have any: those of a head's classes.
    """

    stage: int
    block: int
    depth: int
    assignment: Floats
    attention: Floats
    cell: float
    names: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.assignment.shape[1], self.assignment.shape[2]

    @property
    def title(self) -> str:
        """Such as ``'stage 1, block 3 of 3'``."""
        if self.stage < 0:
            return 'classes of the head'
        return f'stage {self.stage + 1}, block {self.block + 1} of {self.depth}'

    def name(self, cluster: int) -> str:
        """Such as ``'cluster 17'``; the number is that of the tensors, from 0."""
        return self.names[cluster] if cluster < len(self.names) else f'cluster {cluster}'

    def mass(self) -> Floats:
        """The share of all attention that each cluster receives, (M,)."""
        return self.attention.mean((0, 1, 2))

    def ranked(self) -> list[int]:
        """The clusters, those that are read most first."""
        return np.argsort(-self.mass(), kind='stable').tolist()

    def partition(self) -> NDArray[np.intp]:
        """The cluster in which each cell weighs most, (rows, columns)."""
        return self.assignment.argmax(0)

    def read_most(self) -> NDArray[np.intp]:
        """The cluster that each cell reads most, in the mean of the heads, (rows, columns)."""
        return self.attention.mean(0).argmax(-1)

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the cell at a pixel."""
        rows, columns = self.grid
        return (
            min(max(int(y / self.cell), 0), rows - 1),
            min(max(int(x / self.cell), 0), columns - 1),
        )

    def reads(self, row: int, column: int) -> Floats:
        """What a cell reads from each cluster, in the mean of the heads, (M,)."""
        return self.attention[:, row, column].mean(0)

    def seen_from(self, row: int, column: int) -> Floats:
        """What a cell reads of the image, through the clusters, (rows, columns)."""
        return np.tensordot(self.reads(row, column), self.assignment, 1)


@dataclass(frozen=True)
class Seen:
    """One image and the clusters of every block on it.

    Attributes:
        name: What titles call it.
        pixels: The image as the model saw it: (H, W, 3), RGB, resized and cut by the pipeline.
        views: Of every block that has clusters, in forward order.
        classes: The clusters of a segmentation head that has one a class; its labels are below.
        truth: The labels of the image, (H, W) of classes, where they are known; 255 is none.
        predicted: The same as the model predicts it.
        look: Names and colours of the classes.
    """

    name: str
    pixels: NDArray[np.uint8]
    views: Sequence[View]
    classes: View | None = None
    truth: NDArray | None = None
    predicted: NDArray | None = None
    look: Look = field(default_factory=Look)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def stages(self) -> list[int]:
        """Those that have clusters."""
        return list(dict.fromkeys(view.stage for view in self.views))

    def view(self, stage: int, block: int = -1) -> View:
        """A block of a stage; the last one that a stage has if ``block`` is beyond it."""
        of_stage = [view for view in self.views if view.stage == stage]
        return of_stage[block if -len(of_stage) <= block < len(of_stage) else -1]


def see(model: Any, data: dict[str, Any], name: str, look: Look | None = None) -> Seen:
    """Look at the clusters of a model on one image.

    Args:
        model: A host's model, in evaluation mode.
        data: What a pipeline of the host makes of an image: ``inputs`` and ``data_samples``.
        name: What titles call the image.
        look: Names and colours of the classes.

    Raises:
        UserError: The model has no clusters.
    """
    backbone = clustering_backbone(model)
    pixels = as_pixels(data['inputs'])
    inputs = model.data_preprocessor(pseudo_collate([data]), False)['inputs']
    look = look or Look()
    size = pixels.shape[:2]
    views: list[View] = []
    assignments: dict[int, tuple[Tensor, Floats]] = {}  # a stage may use one in all its blocks

    def take(maps: ClusterMaps) -> None:
        view = _view(maps, size, backbone.strides[maps.stage], backbone.depths[maps.stage])
        before, kept = assignments.get(maps.stage, (None, None))
        same = before is not None and torch.equal(before, maps.assignment)
        if same and kept is not None:
            view = replace(view, assignment=kept)
        assignments[maps.stage] = maps.assignment, view.assignment
        views.append(view)

    watch_clusters(model, inputs, take)
    maps = class_clusters(model, inputs)
    if maps is None:
        return Seen(name, pixels, views, look=look)
    names = tuple(look.name(i) for i in range(maps.assignment.shape[1]))
    stride = _stride(backbone.strides, inputs.shape[2:], maps.assignment.shape[2:])
    classes = replace(_view(maps, size, stride, 1), stage=-1, names=names)
    truth = getattr(data['data_samples'], 'gt_sem_seg', None)
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([data]))[0]
    return Seen(
        name,
        pixels,
        views,
        classes,
        None if truth is None else _labels(truth, size),
        _labels(sample.pred_sem_seg, size),
        look,
    )


def as_pixels(image: Tensor) -> NDArray[np.uint8]:
    """A pipeline's image (C, H, W), BGR, grey or of more channels -> (H, W, 3), RGB, to be looked at."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    shown = shown.flip(0).permute(1, 2, 0).cpu()
    if shown.dtype != torch.uint8:
        low, high = (0.0, 255.0) if shown.max() > 1 else (0.0, 1.0)
        shown = (shown.float() - low) / (high - low) * 255
    return np.ascontiguousarray(shown.clamp(0, 255).to(torch.uint8).numpy())


def _stride(strides: Sequence[int], size: Sequence[int], positions: Sequence[int]) -> float:
    """Pixels from one position of a head to the next: the stride of a level, or what comes near."""
    for stride in strides:
        if all(math.ceil(n / stride) == count for n, count in zip(size, positions, strict=True)):
            return stride
    return max(n / count for n, count in zip(size, positions, strict=True))


def _view(maps: ClusterMaps, size: Sequence[int], stride: float, depth: int) -> View:
    """The first image of a batch, without its padding, in no more cells than are drawn."""
    rows, columns = (math.ceil(n / stride) for n in size)
    factor = math.ceil(max(rows, columns) / MOST_CELLS)
    assignment = maps.assignment[0, :, :rows, :columns].float()
    attention = maps.attention[0, :, :rows, :columns].float().permute(0, 3, 1, 2)  # h, M, H, W
    if factor > 1:
        assignment = F.avg_pool2d(assignment[None], factor, ceil_mode=True, divisor_override=1)[0]
        attention = F.avg_pool2d(attention, factor, ceil_mode=True)
    return View(
        maps.stage,
        maps.block,
        depth,
        assignment.cpu().numpy(),
        np.ascontiguousarray(attention.permute(0, 2, 3, 1).cpu().numpy()),
        float(stride * factor),
    )


def resized(labels: NDArray, size: Sequence[int]) -> NDArray:
    """Labels (h, w) of classes at the size of the image that the model saw, by nearest neighbours."""
    rows = (np.arange(size[0]) + 0.5) * labels.shape[0] // size[0]
    columns = (np.arange(size[1]) + 0.5) * labels.shape[1] // size[1]
    return labels[rows.astype(int)[:, None], columns.astype(int)[None]]


def _labels(field: Any, size: Sequence[int]) -> NDArray:
    """A host's map of labels, (1, h, w)."""
    return resized(field.data[0].cpu().numpy(), size)
