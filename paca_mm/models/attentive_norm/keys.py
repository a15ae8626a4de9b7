"""The keys of checkpoints with Attentive Normalization, official and the hosts'.

A ResNet is called the same on both sides; a MobileNetV2 has torchvision's names in one and
mmpretrain's in the other. The detectors are those of mmdetection 1, which counted the background as
class 0; today it is the last class of the box classifier and has neither box nor mask.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.checkpoint.layout import KeyLayout, Table, exchange
from paca_mm.families import load_member

from .rows import ROWS

_ATTENTION = 'attention_weights.attention.0.weight'

#: Keys that only such a backbone has: a ResNet, a MobileNetV2 of torchvision, one of mmpretrain.
ANCHORS = (
    f'layer1.0.bn2.{_ATTENTION}',
    f'features.1.conv.0.1.{_ATTENTION}',
    f'layer1.0.conv.0.bn.{_ATTENTION}',
)

#: The blocks of a MobileNetV2's stages.
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def _mobilenet_v2() -> Table:
    rows = [('features.0.0', 'conv1.conv'), ('features.0.1', 'conv1.bn')]
    number = 0
    for stage, blocks in enumerate(_BLOCKS, 1):
        for block in range(blocks):
            number += 1
            official, ours = f'features.{number}.conv', f'layer{stage}.{block}.conv'
            last = 1 if number == 1 else 2  # the first block does not expand
            for i in range(last):
                rows.append((f'{official}.{i}.0', f'{ours}.{i}.conv'))
                rows.append((f'{official}.{i}.1', f'{ours}.{i}.bn'))
            depthwise = f'{official}.{last - 1}.1', f'{ours}.{last - 1}.bn'
            for i in range(5):  # the most layers that an attention has
                inner = f'.attention_weights.attention.{i}'
                rows.append((depthwise[0] + inner, depthwise[1] + inner))
            rows.append((f'{official}.{last}', f'{ours}.{last}.conv'))
            rows.append((f'{official}.{last + 1}', f'{ours}.{last}.bn'))
    return [*rows, ('features.18.0', 'conv2.conv'), ('features.18.1', 'conv2.bn')]


MOBILENET_V2 = _mobilenet_v2()


class AttentiveLayout(KeyLayout):
    """A layout of two kinds of backbones, and of detectors whose heads have changed since."""

    def to_ours(
        self, state: MutableMapping[str, Any], prefix: str = '', bare: bool = False
    ) -> None:
        super().to_ours(state, prefix, bare)
        if not prefix:
            _detector_to_ours(state)

    def classifier_to_official(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        mobile = any(key.startswith(f'{prefix}backbone.features.') for key in state)
        head = 'classifier.1.' if mobile else 'fc.'
        exchange(state, prefix, [('head.fc.', head), ('backbone.', '')])


def _detector_to_ours(state: MutableMapping[str, Any]) -> None:
    """A detector of mmdetection 1 as one of today's, in place; others stay as they are."""
    classifier = state.get('bbox_head.fc_cls.weight')
    if not isinstance(classifier, Tensor):
        return
    classes = len(classifier)  # and background
    for key in [key for key in state if key.startswith(('bbox_head.', 'mask_head.'))]:
        value = state.pop(key)
        if re.match(r'bbox_head\.fc_cls\.', key):
            value = torch.cat([value[1:], value[:1]])
        elif re.match(r'bbox_head\.fc_reg\.', key) and len(value) == 4 * classes:
            value = value[4:]
        elif re.match(r'mask_head\.conv_logits\.', key) and len(value) == classes:
            value = value[1:]
        # A norm is called by its kind; mmcv calls ours a `gn`.
        key = re.sub(r'(convs\.\d+)\.\w+\.(weight_|bias_|attention_weights\..*)$', r'\1.gn.\2', key)
        state[f'roi_head.{key}'] = value


def table(keys: Iterable[str]) -> Table:
    """The rows for a backbone with these keys."""
    mobile = any(re.match(r'features\.0\.|conv1\.conv\.', key) for key in keys)
    return MOBILENET_V2 if mobile else ()


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a state dict, in our layout and without prefix, shows: the host's class, depths, pairs."""
    blocks = {
        tuple(map(int, m.groups())) for k in state if (m := re.match(r'layer(\d+)\.(\d+)\.', k))
    }
    depths = tuple(sum(i == stage for i, _ in blocks) for stage in sorted({i for i, _ in blocks}))
    pairs = tuple(
        next((len(v) for k, v in state.items() if re.match(rf'layer{i}\.\d+\..*weight_$', k)), 0)
        for i in range(1, len(depths) + 1)
    )
    kind = 'MobileNetV2' if 'conv1.conv.weight' in state else 'ResNet'
    return dict(type=kind, depths=depths, num_mixtures=pairs)


#: What :func:`settings` sees of the published rows.
_SHOWN = {
    'resnet50_an': dict(type='ResNet', depths=(3, 4, 6, 3), num_mixtures=(10, 10, 20, 20)),
    'resnet101_an': dict(type='ResNet', depths=(3, 4, 23, 3), num_mixtures=(10, 10, 20, 20)),
    'mobilenet_v2_an': dict(
        type='MobileNetV2', depths=_BLOCKS, num_mixtures=(5, 5, 5, 5, 10, 10, 10)
    ),
}


def rows(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The published row that :func:`settings` has seen; none for other sizes."""
    return tuple(name for name, shown in _SHOWN.items() if shown == found)


def describe(found: Mapping[str, Any]) -> str:
    """What :func:`settings` has seen, in a few words."""
    return (
        f'{found["type"]} with Attentive Normalization, depths={found["depths"]!r}, '
        f'num_mixtures={found["num_mixtures"]!r}'
    )


def build(found: Mapping[str, Any]) -> nn.Module:
    """The backbone of a published row that :func:`settings` has seen."""
    with torch.device('cpu'):  # mmpretrain's ResNet cannot be built on the meta device
        return load_member('ReplaceNorms')(**ROWS[rows(found)[0]].backbone)


LAYOUT = AttentiveLayout(
    title='Attentive Normalization',
    anchor=ANCHORS[0],
    other_anchors=ANCHORS[1:],
    table=table,
    settings=settings,
    build=build,
    rows=rows,
    describe=describe,
    classifier=(('fc.', 'head.fc.'), ('classifier.1.', 'head.fc.'), ('', 'backbone.')),
)
