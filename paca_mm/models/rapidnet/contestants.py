"""RapidNet's entries in the benchmark: variants of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn

from paca_mm.errors import UserError

from .backbone import RapidNet

VARIANTS = {'deploy': 'norms and positional encodings folded; inference only (RapidNet only)'}

#: Backbones for phones, of about the same multiply-accumulates.
CLASSES = {
    'rapidnet_ti': ('mobilenetv2', 'mobileone_s1', 'fastvit_t8'),
    'rapidnet_s': ('repvit_m09', 'efficientformer_l1'),
}


def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
    """A backbone that returns its last map.

    Raises:
        UserError: The variants do not go together.
    """
    if {'deploy', 'cp'} <= {*variants}:
        raise UserError(
            'a folded model does not train, so +cp does nothing: leave it or +deploy out.'
        )
    return RapidNet(
        **arguments,
        drop_path_rate=0.0,
        out_indices=(3,),
        with_cp='cp' in variants,
        deploy='deploy' in variants,
    )
