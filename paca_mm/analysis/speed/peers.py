"""What a user would pick instead of ours: models of timm, mmpretrain and mmdet."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch.nn as nn

from paca_mm.errors import UserError, did_you_mean

from .steps import Setting


@dataclass(frozen=True)
class Peer:
    """A model of others: its names, and the top-1 accuracy that its authors publish."""

    timm: str
    mmpretrain: str | None
    accuracy: float | None


#: Accuracies: of Swin, ConvNeXt, EfficientFormer (distilled) and MobileOne the model cards in
#: mmpretrain, of PVTv2 whai362/PVT, of MobileNetV2 x1.4 the table of RapidNet's paper, of FastViT-T8
#: apple/ml-fastvit (not distilled, at 256x256), of RepViT-M0.9 THU-MIG/RepViT (distilled, 300 epochs),
#: of ViT-B/16 the abstract of ViTTM's paper.
PEERS = {
    'swin_t': Peer('swin_tiny_patch4_window7_224', 'swin-tiny_16xb64_in1k', 81.18),
    'swin_s': Peer('swin_small_patch4_window7_224', 'swin-small_16xb64_in1k', 83.02),
    'swin_b': Peer('swin_base_patch4_window7_224', 'swin-base_16xb64_in1k', 83.36),
    'convnext_t': Peer('convnext_tiny', 'convnext-tiny_32xb128_in1k', 82.14),
    'convnext_s': Peer('convnext_small', 'convnext-small_32xb128_in1k', 83.16),
    'convnext_b': Peer('convnext_base', 'convnext-base_32xb128_in1k', 83.66),
    'pvtv2_b1': Peer('pvt_v2_b1', None, 78.7),
    'pvtv2_b2': Peer('pvt_v2_b2', None, 82.0),
    'pvtv2_b3': Peer('pvt_v2_b3', None, 83.1),
    'pvtv2_b4': Peer('pvt_v2_b4', None, 83.6),
    'mobilenetv2': Peer('mobilenetv2_140', None, 74.7),  # x1.4
    'fastvit_t8': Peer('fastvit_t8', None, 76.2),
    'efficientformer_l1': Peer(
        'efficientformer_l1', 'efficientformer-l1_3rdparty_8xb128_in1k', 80.46
    ),
    'repvit_m09': Peer('repvit_m0_9', None, 78.7),
    'repvit_m1': Peer('repvit_m1', None, None),
    'mobileone_s1': Peer('mobileone_s1', 'mobileone-s1_8xb32_in1k', 75.72),
    'resnet50': Peer('resnet50', 'resnet50_8xb32_in1k', None),
    'vit_s': Peer('vit_small_patch16_224', None, None),
    'vit_b': Peer('vit_base_patch16_224', None, 81.0),
}


def _swin(depth: int, embed_dims: int = 96) -> dict[str, Any]:
    heads = embed_dims // 32
    return dict(
        type='mmdet.SwinTransformer',
        embed_dims=embed_dims,
        depths=[2, 2, depth, 2],
        num_heads=[heads, 2 * heads, 4 * heads, 8 * heads],
    )


def _pvtv2(*num_layers: int) -> dict[str, Any]:
    return dict(type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=list(num_layers))


#: mmdet's implementations, which serve mmseg as well, and the widths of their stages.
BACKBONES: dict[str, tuple[dict[str, Any], list[int]]] = {
    'swin_t': (_swin(6), [96, 192, 384, 768]),
    'swin_s': (_swin(18), [96, 192, 384, 768]),
    'swin_b': (_swin(18, 128), [128, 256, 512, 1024]),
    'pvtv2_b1': (_pvtv2(2, 2, 2, 2), [64, 128, 320, 512]),
    'pvtv2_b2': (_pvtv2(3, 4, 6, 3), [64, 128, 320, 512]),
    'pvtv2_b3': (_pvtv2(3, 4, 18, 3), [64, 128, 320, 512]),
    'pvtv2_b4': (_pvtv2(3, 8, 27, 3), [64, 128, 320, 512]),
}


def peer(name: str, setting: Setting, known: Sequence[str]) -> nn.Module:
    """A model of timm or mmpretrain; ``known`` are the names for the message."""
    library, _, own_name = name.rpartition('/')
    if library not in ('', 'timm', 'mmpretrain') or (not library and name not in PEERS):
        raise UserError(
            f'{name!r} is no model that this benchmark knows{did_you_mean(name, known, most=3)}'
            f' Known: {", ".join(known)}; timm/NAME, mmpretrain/NAME, or the path of a config.'
        )
    if not library:
        library = 'timm' if installed('timm') or not PEERS[name].mmpretrain else 'mmpretrain'
        own_name = getattr(PEERS[name], library)
    if not installed(library):
        raise UserError(
            f'{name!r} comes from {library}, which is not installed: pip install {library}'
        )
    if library == 'mmpretrain':
        from mmpretrain import get_model, list_models

        if own_name not in list_models():
            raise UserError(
                f'mmpretrain knows no model {own_name!r}; mmpretrain.list_models() does.'
            )
        return get_model(own_name)
    import timm

    if not timm.is_model(own_name):
        raise UserError(f"timm knows no model {own_name!r}; timm.list_models('*swin*'), say, does.")
    # Windows and position embeddings are made for one size of image; and ours trains without
    # stochastic depth here, so they do too. Not every model knows of both.
    size: dict[str, Any] = dict(img_size=(setting.height, setting.width))
    depth: dict[str, Any] = dict(drop_path_rate=0.0)
    for known_to_it in ({**size, **depth}, size, depth):
        try:
            return timm.create_model(own_name, **known_to_it)
        except TypeError:
            continue
    return timm.create_model(own_name)


def installed(package: str) -> bool:
    """Whether a package can be found."""
    return find_spec(package) is not None
