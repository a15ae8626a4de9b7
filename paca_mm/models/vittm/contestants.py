"""ViTTM's entries in the benchmark: its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from ..common.tokens import as_image
from .backbone import ViTTM

#: The ViT of the same width and depth, on patches of 16 pixels.
CLASSES = {
    'vittm_small_28_28': ('vit_s',),
    'vittm_base_28_28': ('vit_b',),
    'vittm_base_16_32': ('vit_b',),
}


class _Memory(nn.Module):
    """A backbone that returns the memory after its last block, which the published answer is made of."""

    def __init__(self, backbone: ViTTM) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = backbone.num_features

    def forward(self, x: Tensor) -> tuple[Tensor]:
        ((memory, _),) = self.backbone(x)
        return (as_image(memory),)


def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
    """A backbone that returns the last memory as a map; images of any size are padded to the patches."""
    return _Memory(ViTTM(**arguments, out_type='raw', pad_to_patch=True, with_cp='cp' in variants))
