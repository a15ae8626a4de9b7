"""What leaves: a part of a config's model with what stands before and behind it, ready for a graph."""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import lcm
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from paca_mm import __version__
from paca_mm.analysis.build import build
from paca_mm.checkpoint import load_whole, read_checkpoint
from paca_mm.checkpoint.load import below
from paca_mm.checkpoint.rename import find_layout
from paca_mm.deploy.images import lacking
from paca_mm.deploy.meta import Meta
from paca_mm.engine.drawing import Look
from paca_mm.engine.predict import dataset_meta, image_pipeline
from paca_mm.engine.tasks import task_for
from paca_mm.environment import require
from paca_mm.errors import UserError
from paca_mm.families import families, family_with
from paca_mm.models.common.deploy import model_channels

#: What ``--part`` may name, and what ``--output``.
PARTS = ('model', 'backbone', 'neck')
OUTPUTS = ('logits', 'labels')

#: What is said of a detector.
OF_A_DETECTOR = (
    'Of a detector the backbone and the neck leave: proposals, regions of interest and '
    'non-maximum suppression stay in mmdetection, which runs them on these maps (mmdeploy exports '
    'whole detectors).'
)


@dataclass
class Leaving:
    """A model that leaves.

    Attributes:
        module: Images in, a tuple of outputs out; in the form that is exported.
        reference: The same as the model was trained, which it is compared with.
        meta: What the file will say.
        names: Of the outputs.
    """

    module: 'Part'
    reference: 'Part'
    meta: Meta
    names: list[str]


class Part(nn.Module):
    """A part of a host's model, from images to a tuple of tensors.

    Args:
        model: The host's model; where only its backbone leaves, that will do.
        part: Of :data:`PARTS`.
        task: ``'cls'``, ``'det'`` or ``'seg'``; ``''`` for a backbone of its own.
        output: ``'logits'``, ``'labels'`` or ``'maps'``.
        pixels: Mean and deviation of the channels, (3,) each, where the input is RGB pixels from 0 to
            255; and whether the model reads them as BGR.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        part: str,
        task: str,
        output: str,
        pixels: tuple[Sequence[float], Sequence[float], bool] | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.part, self.task, self.output = part, task, output
        self.normalises = pixels is not None
        if pixels is not None:
            mean, std, self.turns = pixels
            self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
            self.register_buffer('std', torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> what leaves."""
        x = images
        if self.normalises:
            if self.turns:
                x = x[:, [2, 1, 0]]
            x = (x - self.mean) / self.std
        if self.part != 'model':
            maps = getattr(self.model, 'backbone', self.model)(x)
            if self.part == 'neck':
                maps = self.model.neck(maps)
            return tuple(_flat(maps))
        logits = self.logits(x)
        if self.output == 'logits':
            return (logits,)
        if logits.shape[1] == 1:
            return ((logits.sigmoid() > self.model.decode_head.threshold)[:, 0].long(),)
        return (logits.argmax(1),)

    def logits(self, x: Tensor) -> Tensor:
        """Of the classes, (B, K), or of the pixels, (B, K, H, W)."""
        if self.task == 'cls':
            return self.model(x, mode='tensor')
        size = x.shape[2:]
        return self.model.encode_decode(x, [dict(img_shape=size, pad_shape=size, ori_shape=size)])


def _flat(maps: Any) -> list[Tensor]:
    """The tensors of a nested sequence; no generator, into which torch 2.1's compiler cannot look."""
    if isinstance(maps, Tensor):
        return [maps]
    found: list[Tensor] = []
    for inner in maps:
        found += _flat(inner)
    return found


def leaving(
    cfg: Config,
    checkpoint: str | None,
    part: str | None = None,
    output: str = 'logits',
    normalise: bool = False,
    size: Sequence[int] | None = None,
    fixed: bool = False,
    form: str = 'fast',
    name: str = '',
) -> Leaving:
    """The model of a config, ready to leave.

    Args:
        cfg: The config.
        checkpoint: Its weights; random ones without.
        part: Of :data:`PARTS`; the whole model by default, of a detector backbone and neck.
        output: Of a whole model, of :data:`OUTPUTS`.
        normalise: Whether the file takes RGB pixels from 0 to 255 and normalises them.
        size: Height and width of a file that is ``fixed``.
        fixed: Whether the file is for one size alone.
        form: ``'fast'``, ``'linear'`` or ``'plain'``; see :func:`deploy`.
        name: Of the config.

    Raises:
        UserError: The checkpoint is not the config's, or the model has no such part.
    """
    task = task_for(cfg)
    require(task.scope)
    model: Any = build(cfg)
    content: Any = None
    if checkpoint:
        content = read_checkpoint(checkpoint)
        load_whole(model, content, checkpoint, strict=True)
    else:
        _prepare_untrained(model)
    model.eval().requires_grad_(False)
    part = _part_of(model, task.name, part)
    output = output if part == 'model' else 'maps'
    if output == 'labels' and task.name == 'cls' and getattr(model.head, 'thr', None) is not None:
        raise UserError('a classifier of several labels has no --output labels: leave it out.')
    look = Look.of(dataset_meta(cfg, content))
    pipeline = image_pipeline(cfg) if cfg.get('test_dataloader') else None
    meta = Meta(
        task=task.name,
        output=output,
        version=__version__,
        config=name,
        row=row_of(model),
        checkpoint=Path(checkpoint).name if checkpoint else '',
        classes=list(look.classes),
        palette=[list(colour) for colour in look.palette],
        normalises=normalise,
        form=form,
    )
    _note_images(meta, model, pipeline)
    if part == 'model':
        _note_answers(meta, model)
    if not checkpoint:
        meta.notes.append('its weights are random: no checkpoint was named')
    if part == 'neck' and task.name == 'det':
        meta.notes.append(OF_A_DETECTOR)
    bound = _bound_size(model)
    if bound and not fixed:
        fixed = True
        meta.notes.append(
            'its positions are learned for one size, so the file is for that alone (--size H W for '
            'another)'
        )
    if fixed:
        meta.size = list(size or bound or task.image_size)
    pixels = (meta.mean, meta.std, meta.channels == 'bgr') if normalise else None
    if normalise:
        meta.channels = 'rgb'
        if pixels and pixels[2]:
            meta.mean, meta.std = meta.mean[::-1], meta.std[::-1]
    return _ready(model, part, meta, pixels)


def in_hand(
    module: nn.Module, size: Sequence[int] | None = None, form: str = 'fast', name: str = ''
) -> Leaving:
    """A module that is in memory already, without a config, ready to leave.

    Args:
        module: A backbone; or another module of images (B, C, H, W) to a tensor or to sequences of
            tensors, a :class:`Part` of a host's model say. It stays as it is; the file has it in eval
            mode and takes what it takes.
        size: Height and width, where the file is for one size alone.
        form: ``'fast'``, ``'linear'`` or ``'plain'``; see :func:`deploy`.
        name: What the file calls it; its class by default.

    Raises:
        UserError: The sides of ``size`` are not the multiples that the module needs.
    """
    model = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    meta = Meta(
        task='',
        output='maps',
        version=__version__,
        config=name or type(module).__name__,
        row=row_of(model),
        mean=[],
        std=[],
        size=list(size) if size else None,
        lacks='nobody said how: it had no config',
        form=form,
    )
    return _ready(model, 'backbone', meta)


def _ready(
    model: nn.Module,
    part: str,
    meta: Meta,
    pixels: tuple[Sequence[float], Sequence[float], bool] | None = None,
) -> Leaving:
    """A model in eval mode in the form that leaves, beside itself."""
    form, output = meta.form, meta.output
    deployed = copy.deepcopy(model)
    if meta.size is None:
        _untie_sizes(deployed)
    if form != 'plain':
        deploy(deployed, form)
    for module in _deploy_modules():
        meta.notes += getattr(module, 'notes', _no_notes)(deployed)
        meta.multiple = lcm(meta.multiple, getattr(module, 'multiple', _one)(model))
    if meta.size and any(side % meta.multiple for side in meta.size):
        raise UserError(
            f'--size {meta.size[0]} {meta.size[1]}: the sides must be multiples of {meta.multiple}.'
        )
    made = [Part(m, part, meta.task, output, pixels).eval() for m in (deployed, model)]
    with torch.no_grad():
        height, width = meta.size or (lcm(meta.multiple, 32), lcm(meta.multiple, 32))
        count = len(made[1](torch.zeros(1, model_channels(model), height, width)))
    names = [output] if output != 'maps' else [f'map{i}' for i in range(count)]
    return Leaving(made[0], made[1], meta, names)


def _prepare_untrained(model: nn.Module) -> None:
    """What a training would make of a model; and no layer of zeros, which would hide a wrong graph."""
    for module in _deploy_modules():
        getattr(module, 'untrained', _nothing)(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)


def _untie_sizes(model: nn.Module) -> None:
    """Let mmseg's ``Upsample`` compute its size inside of a graph, in place: it makes a number of it,
    which a graph would keep for ever.
    """
    for module in model.modules():
        kind = type(module)
        if kind.__name__ != 'Upsample' or not kind.__module__.startswith('mmseg.'):
            continue
        upsample: Any = module
        factor = upsample.scale_factor
        if not upsample.size and isinstance(factor, float) and factor.is_integer():
            upsample.forward = partial(
                _enlarged, int(factor), upsample.mode, upsample.align_corners
            )


def _enlarged(factor: int, mode: str, align_corners: bool | None, x: Tensor) -> Tensor:
    size = [x.shape[2] * factor, x.shape[3] * factor]
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


def deploy(model: nn.Module, form: str = 'fast') -> None:
    """Give a model the form in which it is run elsewhere, in place; it returns what it returned.

    Args:
        model: In eval mode.
        form: ``'fast'`` for onnxruntime on a CPU, or ``'linear'``, where linear layers stay matrix
            products, for dynamic quantisation.
    """
    for module in _deploy_modules():
        module.deployed(model, form)


def _deploy_modules() -> list[Any]:
    """Those of the families that have one and whose parts may be in a model: it was imported."""
    return [
        import_module(family.deploy)
        for family in families().values()
        if family.deploy
        and any(m.host is None or m.host in sys.modules for m in family.members.values())
    ]


def _nothing(model: nn.Module) -> None: ...


def _no_notes(model: nn.Module) -> list[str]:
    return []


def _one(model: nn.Module) -> int:
    return 1


def _part_of(model: Any, task: str, part: str | None) -> str:
    if task == 'det':
        if part == 'model':
            raise UserError(
                f'--part model: {OF_A_DETECTOR}\n  to fix it: leave --part out, or --part backbone.'
            )
        part = part or ('neck' if getattr(model, 'with_neck', False) else 'backbone')
    part = part or 'model'
    if part == 'neck' and getattr(model, 'neck', None) is None:
        raise UserError(
            f'--part neck: this {type(model).__name__} has no neck.\n  to fix it: --part backbone.'
        )
    if not hasattr(model, 'backbone'):
        raise UserError(f'{type(model).__name__} has no backbone, so that nothing of it can leave.')
    return part


def row_of(model: nn.Module) -> str:
    """The full name of the published row that the weights of a model look like, ``'paca_small'`` say.

    Where several rows have such weights it is all of them, ``'paca_small or paca_small_c2'``; ``''`` for
    other sizes and for models of no family.
    """
    state = model.state_dict()
    layout, prefix = find_layout(state) or (None, '')
    family = family_with(layout)
    if layout is None or family is None:
        return ''
    rows = layout.rows(layout.settings(below(state, prefix)))
    return ' or '.join(family.prefix + row for row in rows)


def _note_images(meta: Meta, model: Any, pipeline: Sequence[Mapping[str, Any]] | None) -> None:
    """How an image becomes the model's input."""
    pre = model.data_preprocessor
    if getattr(pre, '_enable_normalize', False):
        meta.mean = pre.mean.flatten().tolist()
        meta.std = pre.std.flatten().tolist()
    else:
        channels = model_channels(model)
        meta.mean, meta.std = [0.0] * channels, [1.0] * channels
    # Hosts load images as BGR.
    turned = any(  # by the names of mmengine, of mmsegmentation 1.2 and of mmpretrain
        getattr(pre, name, False)
        for name in ('_channel_conversion', 'channel_conversion', 'to_rgb')
    )
    meta.channels = 'rgb' if turned else 'bgr'
    test = getattr(pre, 'test_cfg', None) or {}
    if meta.task == 'seg':
        meta.pad = int(test.get('size_divisor') or 1)
        meta.pad_value = float(getattr(pre, 'pad_val', 0) or 0)
    else:
        meta.pad = int(getattr(pre, 'pad_size_divisor', 1) or 1)
        meta.pad_value = float(getattr(pre, 'pad_value', 0) or 0)
    if pipeline is None:
        meta.lacks = 'nothing that the config says: it has no test_dataloader'
        return
    steps = [_plain_step(step) for step in pipeline]
    meta.lacks = lacking(steps)
    if not meta.lacks and (test.get('size') or model_channels(model) != 3):
        meta.lacks = 'a padding to one size' if test.get('size') else 'a loader of other channels'
    if meta.lacks:
        meta.notes.append(
            f'images are prepared by {meta.lacks}, which the runtime lacks: prepare them yourself'
        )
    else:
        meta.pipeline = steps


def _plain_step(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step of a pipeline as JSON can hold it."""
    from paca_mm.type_names import type_name

    return {**{k: v for k, v in step.items() if k != 'type'}, 'type': type_name(step)}


def _note_answers(meta: Meta, model: Any) -> None:
    """What becomes of the logits."""
    if meta.task == 'seg':
        meta.align_corners = bool(model.align_corners)
        meta.threshold = float(getattr(model.decode_head, 'threshold', None) or 0.3)
        test = model.test_cfg or {}
        if test.get('mode') == 'slide':
            meta.window = [*test['crop_size'], *test['stride']]
            if meta.output == 'labels':
                raise UserError(
                    'this config segments by sliding windows, whose logits are averaged, so that '
                    'there are no labels of a window.\n  to fix it: --output logits; the runtime '
                    'slides the windows.'
                )
        return
    from mmpretrain.models.heads import ClsHead

    predicts = type(model.head)._get_predictions if isinstance(model.head, ClsHead) else None
    own = ClsHead._get_predictions
    meta.probabilities = predicts is own


def _bound_size(model: Any) -> tuple[int, int] | None:
    """Height and width of the images that learned positions are made for, in a host's own backbone."""
    backbone = model.backbone
    size = getattr(backbone, 'img_size', None)
    if size is None or getattr(backbone, 'pos_embed', None) is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
