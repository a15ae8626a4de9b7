"""The spectra of a network's stages: untrained, from several seeds, and with a checkpoint."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from paca_mm.analysis.build import build, quiet
from paca_mm.checkpoint import load_whole, read_checkpoint
from paca_mm.engine.distributed import device as default_device
from paca_mm.engine.mistakes import explained
from paca_mm.engine.walk import leave_weights_out
from paca_mm.errors import UserError
from paca_mm.families import family_of
from paca_mm.models.common.norms import revert_sync_batchnorm

from .images import Images
from .spectrum import Curve, Spectrum, join, spectrum_of

#: Tokens before those of the grid that are left out: of class and of distillation.
_MOST_EXTRA_TOKENS = 2


@dataclass(frozen=True)
class Stage:
    """One output of a backbone.

    Attributes:
        name: ``'stage 1'``, counted over what the backbone returns.
        channels: Its channels.
        positions: Its height and width in positions, for the first image.
        curve: Its spectrum; None where a side has one position only, or nothing varies.
    """

    name: str
    channels: int
    positions: tuple[int, int]
    curve: Curve | None


def prepared(cfg: Config) -> Config:
    """A copy that loads no weights and whose backbone returns every stage, where it is one of ours.

    A classifier's config asks for the last stage alone. Stages of a host's backbone stay as the
    config has them, because each host counts them in its own way.

    Raises:
        UserError: The model of the config has no backbone.
    """
    cfg = copy.deepcopy(cfg)
    if not (cfg.get('model') or {}).get('backbone'):
        raise UserError(
            'the model of this config has no backbone, so it has no stages to look at; name the '
            'config of a detector, a segmentor or a classifier with one.'
        )
    backbone = cfg.model.backbone
    family = family_of(backbone)
    if family is not None and family.arch is not None and backbone.get('out_indices'):
        stages = len(family.arch(backbone)['embed_dims'])
        last = max(i % stages for i in backbone.out_indices)
        backbone.out_indices = tuple(range(last + 1))
    if family is not None:
        backbone.update(family.as_maps)
    leave_weights_out(cfg.model)
    cfg.load_from = None
    return cfg


def untrained(
    cfg: Config,
    images: Images,
    seeds: Sequence[int],
    window: str = 'hann',
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> list[list[Stage]]:
    """The stages of the backbone as it is before training, one list a seed.

    BatchNorms normalise by the images at hand: the statistics of a new one (mean 0, variance 1) are
    those of nothing.

    Args:
        cfg: The config, as :func:`prepared` returns it.
        images: What runs through it.
        seeds: Of the random weights.
        window: See :func:`.spectrum.spectrum_of`.
        preprocess: What :func:`preprocessor_of` returned, where several configs share it.
    """
    preprocess = preprocess or preprocessor_of(cfg)
    found = []
    for seed in seeds:
        with explained(cfg):
            backbone = untrained_backbone(cfg.model.backbone, seed)
        found.append(_measure(backbone, preprocess, images, window))
    return found


def untrained_backbone(settings: Mapping[str, Any], seed: int) -> nn.Module:
    """A backbone with the random weights of a seed, ready to be measured; see :func:`untrained`."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        backbone: Any = MODELS.build(copy.deepcopy(settings))
        if hasattr(backbone, 'init_weights'):
            backbone.init_weights()
    backbone = revert_sync_batchnorm(backbone)
    backbone.eval()
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return backbone.to(default_device())


def trained(cfg: Config, checkpoint: str, images: Images, window: str = 'hann') -> list[Stage]:
    """The stages with the weights of a checkpoint, in evaluation mode.

    Raises:
        UserError: It cannot be read, or is another model's.
    """
    model: Any = _built(cfg)
    load_whole(model, read_checkpoint(checkpoint), checkpoint, strict=True)
    model.to(default_device()).eval()
    return _measure(model.backbone, _preprocessor(model), images, window)


def over_seeds(found: Sequence[Sequence[Stage]]) -> list[Stage]:
    """One list of stages from one list a seed; see :meth:`.spectrum.Curve.of_seeds`."""
    stages = []
    for same in zip(*found, strict=True):
        curves = [stage.curve for stage in same if stage.curve is not None]
        curve = Curve.of_seeds(curves) if curves else None
        stages.append(Stage(same[0].name, same[0].channels, same[0].positions, curve))
    return stages


def preprocessor_of(cfg: Config) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) as the pipeline of a config gives them -> as its backbone takes them."""
    return _preprocessor(_built(cfg))


def _built(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.random.fork_rng(), quiet():
        return build(cfg)


def _preprocessor(model: Any) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) as the pipeline gives them -> as the backbone takes them."""
    preprocessor = model.data_preprocessor.to(default_device()).eval()

    def preprocess(batch: Tensor) -> Tensor:
        samples = [BaseDataElement() for _ in batch]  # some write the padding into them
        return preprocessor(dict(inputs=[*batch], data_samples=samples), False)['inputs']

    return preprocess


@torch.no_grad()
def _measure(
    backbone: nn.Module, preprocess: Callable[[Tensor], Tensor], images: Images, window: str
) -> list[Stage]:
    spectra: list[list[Spectrum]] = []
    shapes: list[tuple[int, tuple[int, int]]] = []
    for batch in images.batches():
        x = preprocess(batch)
        size = (x.shape[2], x.shape[3])
        maps = maps_of(backbone(x), size)
        if not spectra:
            spectra = [[] for _ in maps]
            shapes = [(m.shape[1], (m.shape[2], m.shape[3])) for m in maps]
        for found, m in zip(spectra, maps, strict=True):
            if min(m.shape[2:]) > 1 and (s := spectrum_of(m, size, window).with_detail()):
                found.append(s)
    return [
        Stage(
            f'stage {i + 1}', channels, positions, Curve.of_images(join(found)) if found else None
        )
        for i, ((channels, positions), found) in enumerate(zip(shapes, spectra, strict=True))
    ]


def maps_of(outputs: Any, size: tuple[int, int]) -> list[Tensor]:
    """What a backbone returns as feature maps (B, C, h, w).

    Tokens (B, N, C) are laid out on the grid that has the shape of the image; one or two tokens
    before it, of class and distillation, are left out. Vectors (B, C) beside maps are left out too.

    Args:
        outputs: What the backbone returned: tensors, or lists of them.
        size: Height and width of the image.

    Raises:
        UserError: It returned vectors alone, or tokens that make no such grid.
    """
    tensors = [*_tensors(outputs)]
    maps = [_as_map(t, size) for t in tensors if t.ndim in (3, 4)]
    if not maps:
        shapes = ', '.join(str(tuple(t.shape)) for t in tensors) or 'nothing'
        raise UserError(
            f'the backbone returns no feature maps but {shapes}: there are no positions to take '
            'frequencies of.\n  to fix it, for a vision transformer of a host: '
            '--cfg-options model.backbone.out_type=featmap'
        )
    return maps


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _tensors(output)


def _as_map(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    if tensor.ndim == 4:
        return tensor
    number = tensor.shape[1]
    for extra in range(_MOST_EXTRA_TOKENS + 1):
        height = round(((number - extra) * size[0] / size[1]) ** 0.5)
        width = (number - extra) // max(height, 1)
        if height * width == number - extra and height * size[1] == width * size[0]:
            return tensor[:, extra:].transpose(1, 2).unflatten(2, (height, width))
    raise UserError(
        f'the backbone returns {number} tokens for an image of {size[0]} x {size[1]} pixels, which '
        'make no grid of its shape, with or without one or two tokens before it.\n  to fix it, for '
        'a vision transformer of a host: --cfg-options model.backbone.out_type=featmap'
    )
