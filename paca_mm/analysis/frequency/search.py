"""Sizes of a backbone whose untrained stages are nearest to a target, under a budget."""

import copy
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from paca_mm.analysis.flops import Cost, count
from paca_mm.engine.config import is_lazy
from paca_mm.engine.walk import type_name, weights_of
from paca_mm.errors import UserError
from paca_mm.families import Family, family_of
from paca_mm.files import replacing

from .images import Images
from .spectrum import Band, Curve, mean_distance
from .stages import Stage, over_seeds, preprocessor_of, untrained

#: Multipliers that are tried unless others are asked for.
DEPTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
WIDTHS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.5)

#: The keys of an arch dict that are numbers of blocks.
_BLOCKS = re.compile(r'depths|\w+_(?:depths|blocks)')

#: Widths stay multiples of this where they are, which is what kernels are made for.
_STEP = 8

#: Configs name a budget in these.
_UNITS = {'params': (1e6, 'M parameters'), 'macs': (1e9, 'G MACs')}


@dataclass(frozen=True)
class Budget:
    """What a backbone may cost.

    Attributes:
        of: ``'params'`` or ``'macs'``, of the backbone alone.
        most: The most, in millions of parameters or billions of multiply-accumulates.
        at_least: The least share of ``most`` that is to be used, 0 to 1.
    """

    of: str
    most: float
    at_least: float = 0.0

    def __post_init__(self) -> None:
        if not self.most > 0 or not 0 <= self.at_least <= 1:
            raise UserError(
                f'a budget of {self.most:g} {_UNITS[self.of][1]}, of which {self.at_least:g} at least '
                'is to be used: the first must be above 0, the second from 0 to 1.'
            )

    def holds(self, candidate: 'Candidate') -> bool:
        """Whether a candidate keeps to it."""
        share = self.spent(candidate) / self.most
        return self.at_least <= share <= 1

    def spent(self, candidate: 'Candidate') -> float:
        """What a candidate costs, in the unit of ``most``."""
        return getattr(candidate, self.of) / _UNITS[self.of][0]

    def __str__(self) -> str:
        least = f'{self.at_least * self.most:.4g} to ' if self.at_least else 'at most '
        return f'{least}{self.most:.4g} {_UNITS[self.of][1]}'


@dataclass(frozen=True)
class Candidate:
    """A size of the backbone.

    Attributes:
        depth: The multiplier of the numbers of blocks.
        width: The multiplier of the channels.
        arch: The sizes.
        params: Parameters of the backbone.
        macs: Multiply-accumulates of the backbone for one image.
    """

    depth: float
    width: float
    arch: dict[str, Any]
    params: int
    macs: int


@dataclass(frozen=True)
class Ranked:
    """A candidate and how far its untrained stages are from the target.

    Attributes:
        candidate: The candidate.
        distance: In decibels: the mean over the seeds, the least and the largest.
        stages: Its stages over the seeds.
    """

    candidate: Candidate
    distance: Band
    stages: list[Stage]


def scaled(arch: Mapping[str, Any], depth: float, width: float) -> dict[str, Any]:
    """An arch with its numbers of blocks and its channels multiplied.

    A stage keeps one block at least, and none where it has none. Channels stay multiples of the
    number of heads, which is left as it is, and of 8 (of 2 where they are no multiples of 8).

    >>> scaled(dict(embed_dims=(32, 64), num_heads=(1, 2), depths=(1, 2)), 1.5, 1.25)
    {'embed_dims': (40, 80), 'num_heads': (1, 2), 'depths': (2, 3)}
    """
    result = dict(arch)
    for key, value in arch.items():
        if key == 'embed_dims' and width != 1:
            heads = arch.get('num_heads', (1,) * len(value))
            result[key] = tuple(_channels(*pair, width) for pair in zip(value, heads, strict=True))
        elif _BLOCKS.fullmatch(key):
            result[key] = tuple(n and max(1, math.floor(n * depth + 0.5)) for n in value)
    return result


def _channels(channels: int, heads: int, width: float) -> int:
    step = math.lcm(heads, _STEP if channels % _STEP == 0 else 2)
    return max(step, math.floor(channels * width / step + 0.5) * step)


def family_with_arch(cfg: Config) -> Family:
    """The family of a config's backbone.

    Raises:
        UserError: It is none of ours, or one that has no arch dict: there is nothing to multiply.
    """
    family = family_of(cfg.model.backbone)
    kind = type_name(cfg.model.backbone)
    if family is None or family.arch is None:
        raise UserError(
            f'{kind} has no arch dict, so it has no depths and widths that can be searched.\n'
            "  to fix it: search a backbone of paca_mm's, or leave --search out: its curves are "
            'shown without it.'
        )
    return family


def candidates(
    cfg: Config,
    budget: Budget,
    size: tuple[int, int],
    depths: Sequence[float] = DEPTHS,
    widths: Sequence[float] = WIDTHS,
) -> list[Candidate]:
    """The sizes that keep to a budget, counted at an image of ``size``.

    Args:
        cfg: The config, as :func:`.stages.prepared` returns it.
        budget: The budget.
        size: Height and width of the image in pixels.
        depths, widths: The multipliers, of which every pair is tried.

    Raises:
        UserError: The backbone has no arch dict, a multiplier is not above 0, or no size keeps to
            the budget.
    """
    family = family_with_arch(cfg)
    assert family.arch is not None
    if wrong := [m for m in (*depths, *widths) if not m > 0]:
        raise UserError(f'--depths and --widths must be above 0, but {wrong[0]:g} is not.')
    init_default_scope(cfg.default_scope)
    own = family.arch(cfg.model.backbone)
    found: dict[str, Candidate] = {}
    for depth in depths:
        for width in widths:
            arch = scaled(own, depth, width)
            if str(arch) not in found:
                cost = _cost({**cfg.model.backbone, 'arch': arch}, size)
                found[str(arch)] = Candidate(depth, width, arch, cost.params, cost.macs)
    kept = [candidate for candidate in found.values() if budget.holds(candidate)]
    if not kept:
        nearest = min(found.values(), key=lambda c: abs(budget.spent(c) - budget.most))
        smallest = min(found.values(), key=budget.spent)
        raise UserError(
            f'none of the {len(found)} sizes costs {budget}: the smallest costs '
            f'{budget.spent(smallest):.4g} (depth x {smallest.depth:g}, width x {smallest.width:g}), '
            f'the nearest {budget.spent(nearest):.4g} (depth x {nearest.depth:g}, width x '
            f'{nearest.width:g}).\n'
            '  to fix it: another budget, a smaller --at-least, or other multipliers: --depths, '
            '--widths.'
        )
    return kept


def _cost(backbone: Mapping[str, Any], size: tuple[int, int]) -> Cost:
    model = MODELS.build(dict(backbone))
    model.eval()  # which returns nothing from some hosts
    image = torch.zeros(1, backbone.get('in_channels', 3), *size)
    return count(model, lambda model: model(image))


def rank(
    cfg: Config,
    found: Sequence[Candidate],
    images: Images,
    seeds: Sequence[int],
    target: Sequence[Stage] | Curve,
    window: str = 'hann',
) -> Iterator[Ranked]:
    """Measure candidates against a target, in their order.

    Args:
        cfg: The config, as :func:`.stages.prepared` returns it.
        found: The candidates.
        images: What runs through them.
        seeds: Of the random weights.
        target: The stages of another network of as many stages, which are compared one by one; or
            the curve of images, with which every stage is compared.
        window: See :func:`.spectrum.spectrum_of`.

    Raises:
        UserError: No stage has enough positions to be compared.
    """
    preprocess = preprocessor_of(cfg)  # of the complete model, which is none of a candidate's
    for candidate in found:
        sized = copy.deepcopy(cfg)
        sized.model.backbone.arch = candidate.arch
        by_seed = untrained(sized, images, seeds, window, preprocess)
        values = [_distance(stages, target) for stages in by_seed]
        yield Ranked(
            candidate,
            Band(float(np.mean(values)), min(values), max(values)),
            over_seeds(by_seed),
        )


def _distance(stages: Sequence[Stage], target: Sequence[Stage] | Curve) -> float:
    others: list[Curve | None] = [target] * len(stages) if isinstance(target, Curve) else []
    if not isinstance(target, Curve):
        others = [stage.curve for stage in target]
    value = mean_distance([(s.curve, o) for s, o in zip(stages, others, strict=True)])
    if value is None:
        raise UserError(
            'no stage has the 3 x 3 positions that a comparison takes: the images are too small for '
            'this backbone.\n  to fix it: larger images: --images FOLDER, or a larger --crop.'
        )
    return value


def write_config(file: Path, base: Path, cfg: Config, candidate: Candidate, why: str) -> None:
    """A config that is another with the sizes of a candidate, complete with what reads its widths.

    Args:
        file: The config to write.
        base: The config that it inherits.
        cfg: That config, loaded.
        candidate: The sizes.
        why: A comment for its head.
    """
    family = family_with_arch(cfg)
    assert family.widths is not None
    backbone = cfg.model.backbone
    arch = {'_delete_': True} if 'arch' in backbone else {}
    changes: dict[str, Any] = {'backbone': {'arch': {**arch, **candidate.arch}}}
    if weights_of(backbone):
        changes['backbone']['init_cfg'] = None  # they are of the other sizes
    for node, holder in ((backbone, changes['backbone']), (cfg.model, changes)):
        if node.get('pretrained'):
            holder['pretrained'] = None
    stages = family.widths({**backbone, 'arch': candidate.arch})
    out_indices = backbone.get('out_indices', range(len(stages)))
    given = [stages[i] for i in sorted(i % len(stages) for i in out_indices)]
    changes.update(_readers(cfg.model, given))
    comment = ''.join(f'# {line}\n' for line in why.splitlines())
    if is_lazy(base):  # a text config inherits no other kind: this one is complete
        with replacing(file) as part:
            part.write_text(f'{comment}{_changed(cfg, changes).pretty_text}')
        return
    inherited = os.path.relpath(base.resolve(), file.resolve().parent).replace(os.sep, '/')
    lines = [f'    {name}={_python(value)},\n' for name, value in changes.items()]
    with replacing(file) as part:
        part.write_text(
            f'{comment}_base_ = {inherited!r}\n\nmodel = dict(\n{"".join(lines)})\n'
            + ('load_from = None\n' if cfg.get('load_from') else '')
        )


def _changed(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a config with changes of its model."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({'model': dict(changes)})
    if cfg.get('load_from'):
        cfg.load_from = None
    return cfg


def _readers(model: Mapping[str, Any], given: Sequence[int]) -> dict[str, Any]:
    """The new ``in_channels`` of the neck, or of the heads where no neck stands between."""
    neck = model.get('neck') or {}
    if isinstance(neck, Mapping) and isinstance(neck.get('in_channels'), Sequence):
        return {'neck': {'in_channels': [*given]}}
    if isinstance(neck, Mapping) and 'in_channels' in neck:
        return {'neck': {'in_channels': given[-1]}}
    changes: dict[str, Any] = {}
    for name in ('decode_head', 'auxiliary_head', 'head'):
        heads = model.get(name)
        if isinstance(heads, Mapping) and 'in_channels' in heads:
            changes[name] = {'in_channels': _levels(heads, given)}
        elif isinstance(heads, Sequence):  # a config replaces lists as they are
            changes[name] = [{**head, 'in_channels': _levels(head, given)} for head in heads]
    return changes


def _levels(head: Mapping[str, Any], given: Sequence[int]) -> Any:
    index = head.get('in_index', -1)
    return [given[i] for i in index] if isinstance(index, Sequence) else given[index]


def _python(value: Any) -> str:
    """A value as configs write it."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_python(v)}" for key, v in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(_python, value))}]'
    return repr(value)
