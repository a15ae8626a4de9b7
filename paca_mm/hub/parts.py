"""Which parts a model may be made of that comes out of a file.

A registry of the hosts finds more than it lists: a ``type`` with dots is imported, and so is what
``_scope_`` names; some registered types fetch programs of others; one setting is evaluated as Python
(``nms``), one loads a pickle (``class_weight``). So a file may name the parts in :data:`PARTS`, the
members of our families, and what the caller trusts besides; and its texts may be no paths.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from paca_mm.engine.walk import places
from paca_mm.errors import UserError, did_you_mean
from paca_mm.families import member_named

#: What the models of the configs of this suite are made of, besides our own members.
PARTS = frozenset([
    'ATSS', 'ATSSAssigner', 'ATSSHead', 'AnchorGenerator', 'BBoxL1Cost', 'BN',
    'BatchFixedSizePad', 'CSPNeXtPAFPN', 'CSRAClsHead', 'CascadeRCNN', 'CascadeRoIHead',
    'ChannelMapper', 'ClassificationCost', 'ClsDataPreprocessor', 'Constant', 'CrossEntropyLoss',
    'CrossEntropyLossCost', 'CutMix', 'DETR', 'DETRHead', 'DINO', 'DINOHead', 'DeformableDETR',
    'DeformableDETRHead', 'DeltaXYWHBBoxCoder', 'DetDataPreprocessor', 'DiceCost', 'DiceLoss',
    'DistancePointBBoxCoder', 'DynamicSoftLabelAssigner', 'EncoderDecoder', 'FCNHead',
    'FCNMaskHead', 'FPN', 'FPNHead', 'FasterRCNN', 'Feature2Pyramid', 'FocalLoss',
    'FocalLossCost', 'GELU', 'GIoULoss', 'GN', 'GlobalAveragePooling', 'HungarianAssigner',
    'ImageClassifier', 'IoUCost', 'L1Loss', 'LN', 'LabelSmoothLoss', 'LinearClsHead',
    'MSDeformAttnPixelDecoder', 'Mask2Former', 'Mask2FormerHead', 'MaskFormerFusionHead',
    'MaskPseudoSampler', 'MaskRCNN', 'MaxIoUAssigner', 'Mixup', 'MlvlPointGenerator',
    'MobileNetV2', 'Normal', 'PSPHead', 'PseudoSampler', 'QualityFocalLoss', 'RPNHead', 'RTMDet',
    'RTMDetSepBNHead', 'RandomSampler', 'ReLU', 'ResNet', 'RetinaHead', 'RetinaNet', 'RoIAlign',
    'SegDataPreProcessor', 'SegformerHead', 'SegmenterMaskTransformerHead', 'Shared2FCBBoxHead',
    'Shared4Conv1FCBBoxHead', 'SiLU', 'SingleRoIExtractor', 'SmoothL1Loss', 'StandardRoIHead',
    'SyncBN', 'TimmClassifier', 'TruncNormal', 'UPerHead', 'VisionTransformer',
    'VisionTransformerClsHead', 'nms', 'soft_nms',
])  # fmt: skip

_SCOPES = ('mmdet', 'mmseg', 'mmpretrain', 'mmengine', 'mmcv')

#: What a text in the settings of a model must not be: a path, an address, or a file.
_PATH = re.compile(
    r'[/\\:~]|\.(pkl|pickle|npy|npz|pth|pt|bin|ckpt|onnx|safetensors|json|ya?ml|py|txt)$',
    re.IGNORECASE,
)


def check_parts(model: Mapping[str, Any], source: str, allow: Collection[str] = ()) -> None:
    """Nothing, if a model is made of known parts.

    Args:
        model: Its settings.
        source: The file that they are from, for the message.
        allow: Further types that the caller trusts, as they are written in the settings.

    Raises:
        UserError: A type is none of them, or a text is a path.
    """
    if not isinstance(model.get('type'), str):
        raise UserError(f'{source} names no type for its model.')
    for place, value in [('type', model['type']), *places(model)]:
        key = place.rpartition('.')[2]
        if key == 'type':
            _check_type(place, value, source, allow)
        elif key.startswith('_') and not (key == '_scope_' and value in _SCOPES):
            raise UserError(
                f'{source} is not built: its {place} is a word to the registry, not to a model.'
            )
        elif isinstance(value, str) and _PATH.search(value):
            raise UserError(
                f'{source} is not built: its {place} is {value!r}, which names a file, and a model out '
                'of a file reads no other.\n  to fix it: have it saved again by paca_mm.hub.save, which '
                'leaves such settings out where they only load weights.'
            )


def _check_type(place: str, name: Any, source: str, allow: Collection[str]) -> None:
    if isinstance(name, str):
        scope, _, bare = name.rpartition('.')
        known = bare in PARTS and scope in ('', *_SCOPES)
        ours = scope == 'paca_mm' and member_named(bare) is not None
        if known or ours or name in allow:
            return
    raise UserError(
        f'{source} is not built: its {place} is {name!r}, which is none of the parts that the configs '
        f'of this suite name{did_you_mean(str(name).rpartition(".")[2], PARTS)}\n'
        '  to fix it: if you know what it is and trust who wrote the file, '
        f'paca_mm.hub.load(..., allow=[{name!r}]).'
    )
