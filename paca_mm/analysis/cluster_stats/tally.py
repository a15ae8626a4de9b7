"""Adding up measures over the images of a dataset."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import measures
from .measures import Array

#: What a row of the report has: the name of a figure, and what it is.
FIGURES = {
    'alive': 'clusters that win a position of some image',
    'alive_in_image': 'clusters that win a position of an image, mean over the images',
    'read': 'how many clusters the attention is spread over: exp of the entropy of their shares of it',
    'position_entropy': 'how undecided a position is between clusters: 1 is all alike (log M nats)',
    'cluster_entropy': 'how widely a cluster is spread: 1 is over the image evenly (log N nats)',
    'overlap': 'of two clusters: 1 is the same weights, 0 no common position',
    'information': 'what clusters tell about the classes, one table for all images: '
    'share of the entropy of the classes',
    'information_by_chance': 'the same with the labels of another image',
    'information_in_image': 'the same, a table for each image',
    'information_in_image_by_chance': 'that with the labels of another image',
    'best_iou': 'IoU of a class and the cluster that fits it best in all images, mean over the classes',
    'best_iou_by_chance': 'the same with the labels of another image',
    'best_iou_in_image': 'IoU of a class and the cluster that fits it best in that image, '
    'mean over the classes of the images',
    'best_iou_in_image_by_chance': 'that with the labels of another image',
}

#: The figures that need a class for every pixel.
OF_LABELS = tuple(name for name in FIGURES if name.startswith(('information', 'best_iou')))


class _Agreement:
    """Clusters against labels: one table over all images, and what each image's own table gives."""

    def __init__(self, clusters: int, classes: int) -> None:
        self.counts: Array = np.zeros((clusters, classes))
        self.information = self.entropy = 0.0  # sums over the images
        self.ious: list[float] = []

    def add(self, partition: NDArray, labels: NDArray) -> None:
        counts = measures.contingency(partition, labels, *self.counts.shape)
        self.counts += counts
        pixels = counts.sum()  # of more pixels, more nats
        self.information += pixels * measures.mutual_information(counts)
        self.entropy += pixels * measures.label_entropy(counts)
        found = measures.best_iou(counts)
        self.ious += found[~np.isnan(found)].tolist()

    def figures(self, ending: str) -> dict[str, float | None]:
        whole = measures.label_entropy(self.counts)
        by_class = measures.best_iou(self.counts)
        some = bool(self.ious)
        return {
            f'information{ending}': (
                measures.mutual_information(self.counts) / whole if whole else None
            ),
            f'information_in_image{ending}': (
                self.information / self.entropy if self.entropy else None
            ),
            f'best_iou{ending}': float(np.nanmean(by_class)) if some else None,
            f'best_iou_in_image{ending}': float(np.mean(self.ious)) if some else None,
        }


class Tally:
    """The clusters of one stage over a dataset.

    Args:
        name: ``'stage 1'``, or ``'head'``.
        clusters: M.
        classes: How many classes the labels have; None where there are none.
    """

    def __init__(self, name: str, clusters: int, classes: int | None) -> None:
        self.name = name
        self.clusters = clusters
        self.positions: tuple[int, int] = (0, 0)
        self.images = 0
        self._wins = np.zeros(clusters, bool)
        self._mass = np.zeros(clusters)
        self._sums = dict.fromkeys(
            ('alive_in_image', 'position_entropy', 'cluster_entropy', 'overlap'), 0.0
        )
        self._own = _Agreement(clusters, classes) if classes else None
        self._chance = _Agreement(clusters, classes) if classes else None

    def add(
        self,
        z: Array,
        mass: Array,
        padded: tuple[int, int],
        image: tuple[int, int],
        labels: NDArray | None = None,
        others: NDArray | None = None,
    ) -> None:
        """Add an image.

        Args:
            z: Its assignment, (M, H, W).
            mass: The share of the attention that each cluster receives, (M,).
            padded: Height and width of what the network saw.
            image: Of the image in it.
            labels: Its label map, (h, w).
            others: That of another image.
        """
        z = z.astype(np.float64)
        height, width = z.shape[1:]
        if not self.images:
            self.positions = (height, width)
        flat = z.reshape(self.clusters, -1)
        partition = flat.argmax(0).reshape(height, width)
        won = np.bincount(partition.ravel(), minlength=self.clusters) > 0
        self.images += 1
        self._wins |= won
        self._mass += mass
        self._sums['alive_in_image'] += won.sum()
        most = (math.log(self.clusters) or 1.0, math.log(height * width) or 1.0)
        self._sums['position_entropy'] += measures.position_entropy(flat) / most[0]
        self._sums['cluster_entropy'] += measures.cluster_entropy(flat) / most[1]
        self._sums['overlap'] += measures.overlap(flat)
        if labels is None or self._own is None or self._chance is None:
            return
        size = (labels.shape[0], labels.shape[1])
        pixels = measures.enlarged(partition, padded, image, size)
        self._own.add(pixels, labels)
        if others is not None:
            self._chance.add(pixels, measures.resized(others, size))

    def figures(self) -> dict[str, float | None]:
        """All of :data:`FIGURES`; None for what could not be measured."""
        found: dict[str, float | None] = dict.fromkeys(FIGURES)
        found |= {name: value / self.images for name, value in self._sums.items()}
        found['alive'] = float(self._wins.sum())
        found['read'] = float(np.exp(measures.entropy(self._mass / self._mass.sum())))
        if self._own is not None:
            found |= self._own.figures('')
        if self._chance is not None and self._chance.ious:
            found |= self._chance.figures('_by_chance')
        return found

    def by_class(self) -> list[dict[str, Any]] | None:
        """For each class the cluster that fits it best in all images, and their IoU; or None."""
        if self._own is None:
            return None
        counts = self._own.counts
        ious = measures.best_iou(counts)
        union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
        best = np.divide(counts, union, out=np.zeros_like(counts), where=union > 0).argmax(0)
        return [
            dict(cluster=None, iou=None)
            if np.isnan(iou)
            else dict(cluster=int(cluster), iou=float(iou))
            for cluster, iou in zip(best, ious, strict=True)
        ]
