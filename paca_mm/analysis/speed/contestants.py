"""Models by name, ready to be run: ours, and those that a user would pick instead.

========================  ==========================================================================
``paca_small``            a published row of ours (:mod:`paca_mm.families`) as a classifier
``swin_s``                a peer (:data:`PEERS`), from timm, or from mmpretrain if there is no timm
``timm/NAME``             any model of timm; ``mmpretrain/NAME`` likewise
``mask_rcnn/swin_t``      a complete detector or segmentor (:data:`HOSTS`) on any backbone of
                          :data:`~.peers.BACKBONES`, on ours if it is a row (``mask_rcnn/paca_tiny``)
``path/to/config.py``     the model of a config
``head``                  what a family adds: the PaCa head of ADE20k, on feature maps of noise
========================  ==========================================================================

A ``+`` adds a variant (:data:`VARIANTS`), ``paca_small+plain`` or ``swin_t+bf16+compile``, so that one
run can compare anything with anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS, task_for
from paca_mm.errors import UserError
from paca_mm.families import Family, families, load_member, row_named

from ..build import HOSTS, build, host_config, row_config
from .exported import onnx_step
from .peers import BACKBONES, PEERS, installed, peer
from .steps import DTYPES, Setting, Step, classify, host_step, macs_of, on_maps

#: What may follow a ``+``; a family's contestants may know more.
VARIANTS = {
    'compile': 'torch.compile of the complete model',
    'channels_last': 'images and weights in channels-last memory',
    'onnx': 'exported, in the form that is fast, and run by onnxruntime (inference, fp32, CPU)',
    'int8': 'with +onnx: linear layers by eight bits, dynamically',
    'cp': 'blocks are recomputed in the backward pass (ours only)',
    **dict.fromkeys(DTYPES, 'in this precision'),
}


@dataclass(frozen=True)
class Facts:
    """What is known of a contestant before it runs.

    Attributes:
        setting: With the precision of its variant.
        macs: Multiply-accumulates of the forward pass of one image; None for a complete host, whose
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
    base, *chosen = name.split('+')
    every = variants()
    if unknown := [v for v in chosen if v not in every]:
        raise UserError(
            f'{name!r}: the variant {unknown[0]!r} is unknown; known: {", ".join(every)}.'
        )
    for dtype in DTYPES:
        if dtype in chosen:
            setting = replace(setting, dtype=dtype)
    own = [v for v in chosen if v == 'cp' or v not in VARIANTS]

    torch.manual_seed(0)
    model: nn.Module
    step: Step
    row, extra = row_named(base), _extras().get(base)
    if own and not row and not extra:
        raise UserError(
            f'{name!r}: {own[0]!r} is a variant of our rows and of {", ".join(_extras())} only.'
        )
    if row:
        family, short = row
        _check_own(name, family, own)
        backbone = _own_contestants(family).backbone(family.rows[short].backbone, own)
        model, step = _Classifier(backbone), classify
    elif extra:
        model, step = extra(own), on_maps
    elif base.endswith('.py') or ('/' in base and base.split('/')[0] in HOSTS):
        model, task = _hosted(base)
        step = host_step(task)
    else:
        model, step = peer(base, setting, known()), classify
    model.to(setting.device)
    params = sum(p.numel() for p in model.parameters())
    macs = macs_of(model, step, setting) if step in (classify, on_maps) else None
    if 'channels_last' in chosen:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if 'blocks' in own and row:
        _own_contestants(row[0]).compile_blocks(model)
    if {'onnx', 'int8'} & {*chosen}:
        run = onnx_step(name, model, step in (classify, on_maps), setting, chosen)
    else:
        run = step(model, setting, 'channels_last' in chosen, 'compile' in chosen)
    compiled = bool({'compile', 'blocks'} & {*chosen})
    return Contestant(model, run, Facts(setting, params, macs, compiled))


def _check_own(name: str, family: Family, variants: Sequence[str]) -> None:
    """A variant of one family is none of another's."""
    able = ['cp', *_own_contestants(family).VARIANTS]
    if others := [v for v in variants if v not in able]:
        raise UserError(
            f'{name!r}: {family.title} has no variant {others[0]!r}; it knows {", ".join(able)}.'
        )


def known() -> list[str]:
    """The names that need no path and no library's own name."""
    hosts = [f'{host}/{name}' for host in HOSTS for name in ('paca_small', *BACKBONES)]
    return [*_rows(), *PEERS, *hosts, *_extras()]


def is_another_network(name: str) -> bool:
    """Whether a variant makes a network that the row's published accuracy is not of."""
    base, *chosen = name.split('+')
    found = row_named(base)
    return bool(found and {*_own_contestants(found[0]).OTHERS} & {*chosen})


def comparison() -> list[str]:
    """Rows of every family, each beside the peers of its weight class."""
    own = (_own_contestants(family).CLASSES for family in families().values())
    rows = {row: peers for some in own for row, peers in some.items()}
    return [*dict.fromkeys(name for row, peers in rows.items() for name in (row, *peers))]


def variants() -> dict[str, str]:
    """What may follow a ``+``, in words: what is anybody's, and what families have besides."""
    own = (_own_contestants(family).VARIANTS for family in families().values())
    return {key: words for some in (VARIANTS, *own) for key, words in some.items()}


def _rows() -> list[str]:
    return [family.prefix + row for family in families().values() for row in family.rows]


def _extras() -> dict[str, Callable[[Sequence[str]], nn.Module]]:
    """Contestants that are no backbone's, by name; they are run on feature maps of noise."""
    own = (_own_contestants(family).EXTRAS for family in families().values())
    return {name: build for some in own for name, build in some.items()}


def _own_contestants(family: Family) -> Any:
    """The module that a family names, with what does for all that it has nothing of its own for."""

    def backbone(arguments: Mapping[str, Any], variants: Sequence[str]) -> nn.Module:
        cls = load_member(family.backbone or '')
        return cls(**arguments, drop_path_rate=0.0, with_cp='cp' in variants)

    own = vars(import_module(family.contestants)) if family.contestants else {}
    nothing: dict[str, Any] = dict(VARIANTS={}, OTHERS=(), EXTRAS={}, CLASSES={}, backbone=backbone)
    return SimpleNamespace(**{**nothing, **own})


class _Classifier(nn.Module):
    """A backbone, average pooling of its last map and a linear head."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def _hosted(name: str) -> tuple[nn.Module, str]:
    """A complete model of a host, and its task."""
    host, _, backbone = name.partition('/')
    if name.endswith('.py'):
        cfg = load_config(name)
        return build(cfg), task_for(cfg).name
    for package in dict.fromkeys(('mmdet', TASKS[HOSTS[host]].scope)):
        if not installed(package):
            raise UserError(f'{name!r} needs {package}, which is not installed: make setup.')
    if found := row_named(backbone):
        cfg = row_config(host, *found)
    elif backbone in BACKBONES:
        cfg = host_config(host, *BACKBONES[backbone])
        import mmdet.models  # noqa: F401
    else:
        able = [f.prefix + row for f in families().values() if f.widths for row in f.rows]
        raise UserError(
            f'{name!r}: the backbone {backbone!r} is unknown; known: '
            f'{", ".join([*able, *BACKBONES])}.'
        )
    return build(cfg), HOSTS[host]
