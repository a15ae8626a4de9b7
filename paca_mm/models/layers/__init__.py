"""The paper's layers, one idea a file, in forward order.

Shape legend, here and in every layer: B batch, H and W height and width of a feature map,
N = H * W patches, C channels, M clusters, h heads, d = C / h channels of a head.

A feature map travels as tokens in picture order, (B, H, W, C). That is also what a channels-last
(B, C, H, W) tensor looks like in memory, so linear layers, norms and attention read it as it is and
convolutions read its permuted view: nothing is ever copied between two layouts.
"""

from .attention import PaCaAttention
from .block import PaCaBlock
from .clustering import CLUSTERINGS
from .downsample import PatchEmbed, Transition
from .teacher import ClusteringTeacher

__all__ = [
    'CLUSTERINGS',
    'ClusteringTeacher',
    'PaCaAttention',
    'PaCaBlock',
    'PatchEmbed',
    'Transition',
]
