"""Models by name, ready to be run: ours, and those that a user would pick instead.

========================  ==========================================================================
``paca_small``            a published row of ours (``zoo.ROWS``) as an ImageNet classifier
``swin_s``                a peer (:data:`PEERS`), from timm, or from mmpretrain if there is no timm
``timm/NAME``             any model of timm; ``mmpretrain/NAME`` likewise
``mask_rcnn/swin_t``      a whole detector or segmentor (:data:`HOSTS`) on any backbone of
                          :data:`BACKBONES`, on ours if it is a row (``mask_rcnn/paca_tiny``)
``path/to/config.py``     the model of a config
``head``                  the PaCa head of ADE20k alone, on feature maps of noise
========================  ==========================================================================

A ``+`` adds a variant (:data:`VARIANTS`), ``paca_small+plain`` or ``swin_t+bf16+compile``, so that one
run can compare anything with anything.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.models.paca.archs import resolve_arch
from paca_mm.models.paca.backbone import PaCaViT
from paca_mm.models.paca.block import PaCaBlock
from paca_mm.zoo import ROWS

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

#: What may follow a ``+``.
VARIANTS = {
    'plain': 'the plain reading (ours only)',
    'compile': 'torch.compile of the whole',
    'blocks': 'torch.compile of each block (our rows only)',
    'channels_last': 'images and weights in channels-last memory',
    'stages123': 'stages 1 to 3 alone, the part whose cost grows linearly (our rows only)',
    'cp': 'blocks are recomputed in the backward pass (ours only)',
    **dict.fromkeys(DTYPES, 'in this precision'),
}


@dataclass(frozen=True)
class Peer:
    """A model of others: its names, and the top-1 accuracy that its authors publish."""

    timm: str
    mmpretrain: str | None
    accuracy: float | None


#: Accuracies: the model cards of Swin and ConvNeXt in mmpretrain, and of PVTv2 (whai362/PVT).
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
    'resnet50': Peer('resnet50', 'resnet50_8xb32_in1k', None),
    'vit_s': Peer('vit_small_patch16_224', None, None),
    'vit_b': Peer('vit_base_patch16_224', None, None),
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

#: The config in which a backbone of :data:`BACKBONES` takes the place of ours.
HOSTS = {
    'mask_rcnn': 'det/mask_rcnn_paca.py',
    'upernet': 'seg/upernet_paca_small_ade20k.py',
    'paca_head': 'seg/paca_head_paca_small_ade20k.py',
}


@dataclass(frozen=True)
class Setting:
    """What a contestant is run on.

    Attributes:
        mode: ``'infer'``, or ``'train'`` for forward, loss and backward, without an optimizer.
        dtype: Of weights and images in inference; of autocast in training.
    """

    mode: str = 'infer'
    batch: int = 4
    height: int = 224
    width: int = 224
    dtype: str = 'fp32'
    device: str = 'cpu'

    def images(self) -> Tensor:
        return torch.randn(self.batch, 3, self.height, self.width, device=self.device)


@dataclass(frozen=True)
class Facts:
    """What is known of a contestant before it runs.

    Attributes:
        setting: With the precision of its variant.
        macs: Multiply-accumulates of the forward pass of one image; None for a whole host, whose
            heads depend on what they find.
    """

    setting: Setting
    params: int
    macs: int | None
    compiled: bool


@dataclass
class Contestant:
    """A model and the step that is timed."""

    model: nn.Module
    run: Callable[[], Any]
    facts: Facts


def make(name: str, setting: Setting) -> Contestant:
    """Build a contestant with random weights, the same for the same row in every variant.

    Raises:
        UserError: The name or a variant is unknown, or what it needs is not installed.
    """
    base, *variants = name.split('+')
    unknown = [v for v in variants if v not in VARIANTS]
    if unknown:
        raise UserError(
            f'{name!r}: the variant {unknown[0]!r} is unknown; known: {", ".join(VARIANTS)}.'
        )
    for dtype in DTYPES:
        if dtype in variants:
            setting = replace(setting, dtype=dtype)
    row = _row_of(base)
    ours = base == 'head' or row is not None
    only_ours = [v for v in variants if v in ('plain', 'blocks', 'cp', 'stages123')]
    if only_ours and not ours:
        raise UserError(f'{name!r}: {only_ours[0]!r} is a variant of our rows and of head only.')
    if base == 'head' and (no := {'blocks', 'stages123'} & set(variants)):
        raise UserError(f'{name!r}: the head has no blocks and no stages; leave out +{no.pop()}.')
    if 'plain' in variants and (no := {'blocks', 'cp'} & set(variants)):
        raise UserError(f'{name!r}: the plain reading comes without +{no.pop()}; leave it out.')

    torch.manual_seed(0)
    step: Callable[..., Callable[[], Any]]
    if row:
        model, step = _row(row, variants), _classify
    elif base == 'head':
        model, step = _head(variants), _segment_maps
    elif base.endswith('.py') or ('/' in base and base.split('/')[0] in HOSTS):
        model, step = _whole(base), _host_step
    else:
        model, step = _peer(base, setting), _classify
    model.to(setting.device)
    params = sum(p.numel() for p in model.parameters())
    macs = None if step is _host_step else _macs(model, step, setting)
    if 'channels_last' in variants:
        model.to(memory_format=torch.channels_last)
    if 'blocks' in variants:
        for module in model.modules():
            if isinstance(module, PaCaBlock):
                module.forward = torch.compile(module.forward, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
    run = step(model, setting, 'channels_last' in variants, 'compile' in variants)
    compiled = 'compile' in variants or 'blocks' in variants
    return Contestant(model, run, Facts(setting, params, macs, compiled))


def known() -> list[str]:
    """The names that need no path and no library's own name."""
    rows = [f'paca_{row}' for row in ROWS]
    hosts = [f'{host}/{name}' for host in HOSTS for name in ('paca_small', *BACKBONES)]
    return [*rows, *PEERS, *hosts, 'head']


class _Classifier(nn.Module):
    """A backbone, average pooling and a linear head."""

    def __init__(self, backbone: PaCaViT) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def _row_of(name: str) -> str | None:
    """``'paca_small'`` -> ``'small'``; None for what is no published row."""
    row = name.removeprefix('paca_')
    return row if row != name and row in ROWS else None


def _row(row: str, variants: Sequence[str]) -> nn.Module:
    from paca_mm.models.paca.plain import PlainPaCaViT

    cls = PlainPaCaViT if 'plain' in variants else PaCaViT
    last = 2 if 'stages123' in variants else 3
    arguments = dict(ROWS[row].backbone, drop_path_rate=0.0, out_indices=(last,))
    return _Classifier(cls(**arguments, with_cp='cp' in variants))


def _peer(name: str, setting: Setting) -> nn.Module:
    library, _, own_name = name.rpartition('/')
    if library not in ('', 'timm', 'mmpretrain') or (not library and name not in PEERS):
        near = get_close_matches(name, known(), n=3)
        raise UserError(
            f'{name!r} is no model that this benchmark knows'
            + (f'; did you mean {" or ".join(near)}?' if near else '.')
            + f' Known: {", ".join(known())}; timm/NAME, mmpretrain/NAME, or the path of a config.'
        )
    if not library:
        library = 'timm' if _installed('timm') or not PEERS[name].mmpretrain else 'mmpretrain'
        own_name = getattr(PEERS[name], library)
    if not _installed(library):
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
    # Ours trains without stochastic depth here, and so do they.
    kwargs: dict[str, Any] = dict(drop_path_rate=0.0)
    try:  # windows and position embeddings are made for one size of image
        return timm.create_model(own_name, img_size=(setting.height, setting.width), **kwargs)
    except TypeError:
        return timm.create_model(own_name, **kwargs)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _macs(model: nn.Module, step: Callable[..., Any], setting: Setting) -> int:
    from ..flops import count

    one = replace(setting, mode='infer', batch=1, dtype='fp32')
    run = step(model, one, False, False)
    return count(model, lambda _: run()).macs


def _prepare(
    model: nn.Module, setting: Setting, compiled: bool, cast: bool = True
) -> tuple[Callable[..., Any], torch.dtype, Any]:
    """The callable, the dtype of its inputs, and the context to call it in.

    Args:
        cast: Whether inference in another precision casts the weights; else autocast does it.
    """
    model.train(setting.mode == 'train')
    wanted = DTYPES[setting.dtype]
    context: Any = nullcontext()
    dtype = torch.float32
    if wanted != torch.float32 and (setting.mode == 'train' or not cast):
        context = torch.autocast(setting.device, wanted)
    elif wanted != torch.float32:
        model.to(wanted)
        dtype = wanted
    return torch.compile(model, dynamic=False) if compiled else model, dtype, context


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def _classify(
    model: nn.Module, setting: Setting, channels_last: bool, compiled: bool
) -> Callable[[], Any]:
    call, dtype, context = _prepare(model, setting, compiled)
    x = _laid_out(setting.images().to(dtype), channels_last)
    labels = torch.randint(1000, (setting.batch,), device=setting.device)

    def infer() -> Any:
        with torch.no_grad():
            return call(x)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with context:
            loss = F.cross_entropy(call(x), labels)
        loss.backward()

    return train if setting.mode == 'train' else infer


def _head(variants: Sequence[str]) -> nn.Module:
    _need('mmseg', 'head')
    from paca_mm.models.paca.head import PaCaHead
    from paca_mm.models.paca.plain import plain_head

    head = PaCaHead(
        [96, 192, 320, 384],
        num_classes=150,
        dropout_ratio=0.1,
        with_cp='cp' in variants,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )
    return plain_head(head) if 'plain' in variants else head


def _segment_maps(
    head: Any, setting: Setting, channels_last: bool, compiled: bool
) -> Callable[[], Any]:
    """The head on maps at 1/4 to 1/32 of the image; a train step ends with the mean of the outputs.

    mmseg's own losses would follow, which are the same for every head.
    """
    call, dtype, context = _prepare(head, setting, compiled)
    if compiled:
        head._forward = torch.compile(head._forward, dynamic=False)
    maps = []
    for i, channels in enumerate(head.in_channels):
        size = [-(-side // (4 * 2**i)) for side in (setting.height, setting.width)]
        x = torch.randn(setting.batch, channels, *size, device=setting.device, dtype=dtype)
        maps.append(_laid_out(x, channels_last).requires_grad_(setting.mode == 'train'))

    def infer() -> Any:
        with torch.no_grad():
            return call(maps)

    def train() -> None:
        head.zero_grad(set_to_none=True)
        for x in maps:
            x.grad = None
        with context:
            logits, scores = head._forward(maps)
        (logits.float().mean() + scores.float().mean()).backward()

    return train if setting.mode == 'train' else infer


def _whole(name: str) -> nn.Module:
    from paca_mm.engine.config import load_config
    from paca_mm.paths import assets_root

    from ..toy_inputs import build

    host, _, backbone = name.partition('/')
    if name.endswith('.py'):
        return build(load_config(name))
    _need('mmdet', name)
    if host != 'mask_rcnn':
        _need('mmseg', name)
    cfg = load_config(str(assets_root() / 'configs' / HOSTS[host]))
    cfg.model.backbone.pop('init_cfg', None)
    if row := _row_of(backbone):
        cfg.model.backbone.update(ROWS[row].backbone)
        widths = list(resolve_arch(cfg.model.backbone.get('arch', 'small'))['embed_dims'])
    elif backbone in BACKBONES:
        cfg.model.backbone, widths = BACKBONES[backbone]
    else:
        raise UserError(
            f'{name!r}: the backbone {backbone!r} is unknown; known: '
            f'{", ".join(f"paca_{row}" for row in ROWS)}, {", ".join(BACKBONES)}.'
        )
    if host == 'mask_rcnn':
        cfg.model.neck.in_channels = widths
    else:
        cfg.model.decode_head.in_channels = widths
        if 'auxiliary_head' in cfg.model:
            cfg.model.auxiliary_head.in_channels = widths[2]
    import mmdet.models  # noqa: F401  (its backbones serve mmseg as well)

    return build(cfg)


def _need(package: str, name: str) -> None:
    if not _installed(package):
        raise UserError(f'{name!r} needs {package}, which is not installed: see requirements.txt.')


def _host_step(
    model: Any, setting: Setting, channels_last: bool, compiled: bool
) -> Callable[[], Any]:
    """A step as the Runner makes it: the losses of annotated images, or predictions."""
    from ..toy_inputs import annotations

    # mmcv's ops, non-maximum suppression say, take nothing but fp32.
    call, dtype, context = _prepare(model, setting, compiled, cast=False)
    x = _laid_out(setting.images().to(dtype), channels_last)
    samples = annotations(model, setting.batch, setting.height, setting.width)
    samples = [sample.to(setting.device) for sample in samples]

    def infer() -> Any:
        with torch.no_grad(), context:
            return call(x, samples, mode='predict')

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with context:
            total, _ = model.parse_losses(call(x, samples, mode='loss'))
        total.backward()

    return train if setting.mode == 'train' else infer
