"""What an attention to clusters can show of itself, whichever family it is of.

A backbone shows its clusters if it has ``has_clusters`` and ``watch_clusters``, a decode head if it has
``class_clusters``; :mod:`paca_mm.analysis.cluster_maps` asks for these names, and for no model.
"""

from typing import NamedTuple

from torch import Tensor


class ClusterMaps(NamedTuple):
    """The clusters of one block, for a batch of images.

    Attributes:
        stage: Counted from 0.
        block: In its stage, counted from 0.
        assignment: What each cluster is made of, (B, M, H, W): its weights over the positions, which
            sum to 1.
        attention: How much every position reads from each cluster, (B, h, H, W, M): over the clusters
            they sum to 1, in every head.
    """

    stage: int
    block: int
    assignment: Tensor
    attention: Tensor
