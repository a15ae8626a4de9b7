"""What is measured of clusters, on arrays of one image or of counts over many; all in float64.

z is the assignment, (M, N): the weights of each of M clusters over N positions, which sum to 1. The hard
partition gives every position to the cluster that weighs most there.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def entropy(p: Array, axis: int = -1) -> Array:
    """Of distributions along an axis, in nats: 0 where one is certain, log n where all n are alike."""
    p = np.asarray(p, np.float64)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    return -(p * logs).sum(axis)


def position_entropy(z: Array) -> float:
    """How undecided a position is between the clusters, mean over the positions.

    The weights of a position, over their sum, are a distribution over the clusters. Its entropy is log M
    where all clusters weigh alike, and 0 where a single one has weight there. Positions in which no
    cluster has any weight are left out.
    """
    total = z.sum(0)
    seen = z[:, total > 0] / total[total > 0]
    return float(entropy(seen, 0).mean())


def cluster_entropy(z: Array) -> float:
    """How widely a cluster is spread, mean over the clusters: log N for a mean over all positions."""
    return float(entropy(z, 1).mean())


def overlap(z: Array) -> float:
    """Of two clusters, mean over all pairs: 1 for the same weights, 0 where they share no position.

    It is the Bhattacharyya coefficient, the sum over the positions of sqrt(z_i z_j). 0 for one cluster.
    """
    count = len(z)
    if count < 2:
        return 0.0
    roots = np.sqrt(z)
    # The sum over all pairs is the square of the sum, less that of each with itself.
    pairs = (roots.sum(0) ** 2).sum() - (roots**2).sum()
    return float(pairs / (count * (count - 1)))


def contingency(partition: NDArray, labels: NDArray, clusters: int, classes: int) -> Array:
    """How many pixels of each class lie in each cluster, (clusters, classes).

    Args:
        partition: The cluster of every pixel.
        labels: The class of every pixel, of the same shape; what is no class is left out.
        clusters: M.
        classes: L.
    """
    known = (labels >= 0) & (labels < classes)
    index = partition[known].astype(np.int64) * classes + labels[known].astype(np.int64)
    return np.bincount(index, minlength=clusters * classes).reshape(clusters, classes).astype(float)


def label_entropy(counts: Array) -> float:
    """Of the classes in a table of :func:`contingency`, in nats."""
    total = counts.sum()
    return float(entropy(counts.sum(0) / total)) if total else 0.0


def mutual_information(counts: Array) -> float:
    """How many nats the cluster of a pixel tells about its class.

    It is 0 where they are independent, and at most the entropy of the classes, which it reaches where
    every cluster has pixels of one class only.
    """
    total = counts.sum()
    if not total:
        return 0.0
    p = counts / total
    by_chance = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    some = p > 0
    return float(max((p[some] * np.log(p[some] / by_chance[some])).sum(), 0.0))


def best_iou(counts: Array) -> Array:
    """For each class the intersection over union with the one cluster that fits it best, (classes,).

    NaN for classes without a pixel.
    """
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    iou = np.divide(counts, union, out=np.zeros_like(counts), where=union > 0)
    return np.where(counts.sum(0) > 0, iou.max(0), np.nan)


def enlarged(
    partition: NDArray,
    padded: tuple[int, int],
    image: tuple[int, int],
    labels: tuple[int, int],
) -> NDArray:
    """A partition of positions, (H, W), as one of the pixels of a label map.

    Args:
        partition: Of the positions of a stage.
        padded: Height and width of what the network saw, in pixels.
        image: Of the image in its upper left corner, without the padding.
        labels: Of the label map, which may be of the image before it was resized.
    """
    indices = []
    for positions, whole, part, pixels in zip(partition.shape, padded, image, labels, strict=True):
        at = (np.arange(pixels) + 0.5) * part / pixels  # in pixels of what the network saw
        indices.append(np.minimum((at * positions / whole).astype(int), positions - 1))
    return partition[np.ix_(*indices)]


def resized(labels: NDArray, size: tuple[int, int]) -> NDArray:
    """A label map at another size, by the nearest pixel."""
    shape = (labels.shape[0], labels.shape[1])
    return enlarged(labels, shape, shape, size)
