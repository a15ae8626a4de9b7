"""The entries of Attentive Normalization in the benchmark: its rows, and what they are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmengine.registry import MODELS

from paca_mm.errors import UserError
from paca_mm.families import load_member

from .plain import make_plain

VARIANTS = {
    'plain': 'the plain reading (ours only)',
    'bn': "the host's model with its BatchNorms (rows of Attentive Normalization only)",
}
OTHERS = {'bn'}

#: The network that it is put into.
CLASSES = {'resnet50_an': ('resnet50',)}

#: The channels of each host's last map.
_WIDTHS = {'mmpretrain.ResNet': 2048, 'mmpretrain.MobileNetV2': 1280}


def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
    """A backbone that returns its last map.

    Raises:
        UserError: A variant is not of this family, or two do not go together.
    """
    if unknown := [v for v in variants if v not in (*VARIANTS, 'cp')]:
        raise UserError(
            f'Attentive Normalization has no variant {unknown[0]!r}; it knows cp, '
            f'{", ".join(VARIANTS)}.'
        )
    if {*VARIANTS} <= {*variants}:
        raise UserError('+plain and +bn do not go together: a BatchNorm has no plain reading.')
    made: Any
    module = {**arguments['module'], 'with_cp': 'cp' in variants}
    if 'bn' in variants:
        made = MODELS.build(module)
    else:
        made = load_member('ReplaceNorms')(module=module, norms=arguments['norms'])
    if 'plain' in variants:
        make_plain(made)
    made.num_features = (_WIDTHS[module['type']],)
    return made
