"""The one list of families, and the record by which the machinery asks a family.

A family is a folder: ``paca_mm/models/<name>/`` with a module ``family.py`` that holds its
:class:`Family` as ``FAMILY``. Registry, checkpoints, zoo, timm, benchmark, checks and doctor ask
these records and name no model themselves, so a family is added or deleted with its folders.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .type_names import scope_name, type_name

if TYPE_CHECKING:
    from .checkpoint.layout import KeyLayout

MODELS = Path(__file__).parent / 'models'


class Member(NamedTuple):
    """Where a registered name is defined.

    Attributes:
        module: The module that registers it when it is imported.
        host: The package that the module needs beyond torch, mmengine and op-less mmcv.
    """

    module: str
    host: str | None = None


@dataclass(frozen=True)
class Row:
    """A published backbone.

    Attributes:
        official: What the official repository calls it; None where it published no weights.
        backbone: The arguments of the family's backbone that make it.
        official_downstream: Its official name in detection and segmentation, where that differs.
        recipe: Arguments of the backbone that belong to its training, stochastic depth say.
    """

    official: str | None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    official_downstream: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Kind(NamedTuple):
    """A kind of model around the backbones of a family.

    Attributes:
        task: ``'cls'``, ``'det'`` or ``'seg'``.
        config: What its configs are called, with ``{row}``.
        official: What its official files are called, with ``{name}``.
    """

    task: str
    config: str
    official: str


@dataclass(frozen=True)
class Catalogue:
    """The published models of a family.

    Attributes:
        rows: The published backbones by short name, ``'small'`` say.
        kinds: The models around them; ``'cls'`` is the classifier.
        config: ``(kind, row)`` -> the config's path from the project's root.
        weights: ``(kind, row)`` -> the address of the official weights, or None.
        published: The rows of a kind of which not all were published.
        license: Of the weights, as an SPDX identifier in small letters.
        paper: As timm writes it, ``'arXiv:2203.11987'``.
    """

    rows: Mapping[str, Row]
    kinds: Mapping[str, Kind]
    config: Callable[[str, str], str]
    weights: Callable[[str, str], str | None]
    published: Mapping[str, Sequence[str]] = field(default_factory=dict)
    license: str = ''
    paper: str = ''

    def rows_of(self, kind: str) -> Sequence[str]:
        """The rows that a kind of model was published with."""
        return self.published.get(kind, tuple(self.rows))


@dataclass(frozen=True)
class Family:
    """What the machinery may ask a family; every field but the title is optional.

    Attributes:
        title: What messages call it.
        members: The registered names, without ``paca_mm.``.
        backbone: The member that is the backbone.
        blocks: The classes that repeat along the depth, each with its module. A training that shards
            the model keeps each of them in one piece.
        toy: Arguments of a small backbone with every part of the large ones; the doctor runs it.
        widths: The channels of every stage, from the arguments of the backbone; may raise UserError.
        arch: The dict of sizes that the backbone takes as its ``arch``, from its arguments: one number
            a stage for ``embed_dims`` and for its blocks (``depths``, ``*_depths``, ``*_blocks``); may
            raise UserError.
        as_maps: Arguments under which the backbone returns feature maps, where it may do otherwise.
        layout: The keys of its checkpoints.
        catalogue: What was published.
        prefix: Of the full names of its rows: ``'paca_'`` makes ``paca_small``.
        contestants: The module with its entries in the benchmark: ``VARIANTS`` (name -> words),
            ``backbone(arguments, variants)``, ``EXTRAS`` (name -> a head by its variants),
            ``CLASSES`` (a row -> the peers of its weight class, for the comparison of all families),
            ``OTHERS`` (variants that make another network, without the row's published accuracy)
            and, with a variant ``blocks``, ``compile_blocks(model)``; what it has not is left out.
        timm_head: The module with its classifier for timm, where that is more than one linear layer:
            ``Head(embed_dims, num_classes, global_pool, drop_rate)`` with the methods of timm's
            ``ClassifierHead``, and ``CLASSIFIER``, the names of the layers that classes shape. It
            may have ``ARGUMENTS``, how the backbone is built under it, and
            ``features(backbone, images)``, what the head reads and the maps of all stages.
        deploy: The module with its form for deployment: ``deployed(model, form)`` exchanges, in place,
            the parts of a model in eval mode that are the family's; and where it has them
            ``multiple(model)``, what the sides of an image must be multiples of, ``notes(model)``, what
            is to be known, and ``untrained(model)``, which makes a model without trained weights what
            a trained one would be.
    """

    title: str
    members: Mapping[str, Member] = field(default_factory=dict)
    backbone: str | None = None
    blocks: Sequence[str] = ()
    toy: Mapping[str, Any] = field(default_factory=dict)
    widths: Callable[[Mapping[str, Any]], tuple[int, ...]] | None = None
    arch: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    as_maps: Mapping[str, Any] = field(default_factory=dict)
    layout: 'KeyLayout | None' = None
    catalogue: Catalogue | None = None
    prefix: str = ''
    contestants: str | None = None
    timm_head: str | None = None
    deploy: str | None = None

    @property
    def rows(self) -> Mapping[str, Row]:
        """The published backbones by short name; none without a catalogue."""
        return self.catalogue.rows if self.catalogue else {}


def names() -> list[str]:
    """The folders of the families, which imports none of them."""
    return sorted(file.parent.name for file in MODELS.glob('*/family.py'))


@cache
def families() -> Mapping[str, Family]:
    """Every family by the name of its folder."""
    return {
        name: importlib.import_module(f'paca_mm.models.{name}.family').FAMILY for name in names()
    }


def member_named(name: str) -> tuple[Family, Member] | None:
    """The family and the module of a registered name, or None if nobody has it."""
    for family in families().values():
        if name in family.members:
            return family, family.members[name]
    return None


def load_member(name: str) -> Any:
    """What a registered name stands for, imported now."""
    found = member_named(name)
    if found is None:
        raise KeyError(name)
    return getattr(importlib.import_module(found[1].module), name)


def family_of(kind: Any) -> Family | None:
    """The family whose backbone a config's ``type`` is: ``'paca_mm.PaCaViT'`` say, or the class."""
    name = type_name(kind)
    found = member_named(name) if scope_name(kind) == 'paca_mm' else None
    return found[0] if found and found[0].backbone == name else None


def family_with(layout: 'KeyLayout | None') -> Family | None:
    """The family whose checkpoints have a layout of keys; None for None."""
    return next((f for f in families().values() if layout and f.layout is layout), None)


def row_named(full_name: str) -> tuple[Family, str] | None:
    """``'paca_small'`` -> the family and ``'small'``; None for what is no published row."""
    for family in families().values():
        row = full_name.removeprefix(family.prefix)
        if row in family.rows and full_name == family.prefix + row:
            return family, row
    return None


def layouts() -> Iterator['KeyLayout']:
    """The key layouts of all families that have one."""
    yield from (family.layout for family in families().values() if family.layout)
