"""What the checks of every task need: the datasets of a config, their paths, classes and images."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from paca_mm.datasets.checks import check_readable
from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import loader_of
from paca_mm.datasets.shapes import DEFAULT_DIR, ensure_shapes
from paca_mm.errors import UserError, some_of
from paca_mm.families import family_of

from .walk import dataset_class, type_name


def datasets_of(node: Any, place: str) -> Iterator[tuple[dict, str]]:
    """The datasets of a dataloader below its wrappers (RepeatDataset, ConcatDataset, ...)."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from datasets_of(child, f'{place}.{i}')
    elif isinstance(node, dict):
        inner = [key for key in ('dataset', 'datasets') if isinstance(node.get(key), (dict, list))]
        if not inner and 'type' in node:
            yield node, place
        for key in inner:
            yield from datasets_of(node[key], f'{place}.{key}')


def make_named_shapes(dataset: Mapping) -> None:
    """Make the embedded dataset where a dataset reads it and it is not there yet."""
    if Path(dataset.get('data_root') or '').is_relative_to(DEFAULT_DIR):
        ensure_shapes(DEFAULT_DIR)


def path_in(dataset: Mapping, path: Any) -> str:
    """A path of a dataset, below its ``data_root``."""
    return os.path.join(dataset.get('data_root') or '', path if isinstance(path, str) else '')


def is_remote(dataset: Mapping) -> bool:
    """Whether its files are read from a server, where nothing can be looked at beforehand."""
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    return backend != 'local' or '://' in str(dataset.get('data_root') or '')


def is_dataset(dataset: Mapping, *bases: type) -> bool:
    """Whether a dataset is of a class of its host, or of one derived from it."""
    cls = dataset_class(dataset)
    return isinstance(cls, type) and issubclass(cls, bases)


def classes_of(dataset: Mapping, place: str) -> tuple[str, ...] | None:
    """The classes that a dataset expects: its ``metainfo``, or what its type is known for.

    Raises:
        UserError: They are one text that is no file, which the hosts take letter by letter.
    """
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = getattr(dataset_class(dataset), 'METAINFO', {}).get('classes')
    if not isinstance(classes, str):
        return tuple(classes) if classes else None
    if os.path.isfile(classes):  # a name on every line, as mmengine reads it
        return tuple(Path(classes).read_text('utf-8').rstrip('\n').splitlines())
    raise UserError(
        f'{place}.metainfo has classes={classes!r}, which is a text and not the name of a file: it '
        f'would be taken letter by letter.\n  to fix it: for one class, classes=({classes!r},) with '
        'the comma; for a file with a class on every line, the right path.'
    )


class Head(NamedTuple):
    """A part of a model that has a class count.

    Attributes:
        place: Where it stands in the model, ``'roi_head.bbox_head'``.
        type: What it is called.
        num_classes: Its class count.
        node: Its settings.
    """

    place: str
    type: str
    num_classes: int
    node: dict


def heads_of(model: Any) -> list[Head]:
    """All parts of a model that have a class count."""

    def below(node: Any, place: str) -> Iterator[Head]:
        if isinstance(node, dict) and isinstance(node.get('num_classes'), int):
            yield Head(place or 'model', type_name(node) or 'model', node['num_classes'], node)
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(child, (dict, list, tuple)):
                yield from below(child, f'{place}.{name}'.lstrip('.'))

    # A data preprocessor counts classes as well; a head explains a mistake better.
    found = below(model or {}, '')
    return sorted(found, key=lambda head: head.place.startswith('data_preprocessor'))


def check_num_classes(
    heads: Iterable[Head], classes: Sequence[str], place: str, others: Sequence[int] = ()
) -> None:
    """Every head has as many classes as the dataset.

    Args:
        heads: The heads that learn the classes of the dataset.
        classes: The classes of the dataset.
        place: Where the dataset stands in the config.
        others: Counts that are right as well: of the things of a panoptic dataset, say.

    Raises:
        UserError: One has not.
    """
    for head in heads:
        if head.num_classes != len(classes) and head.num_classes not in others:
            raise UserError(
                f'{head.type} has num_classes={head.num_classes}, but the dataset of '
                f'{place.partition(".")[0]} has {len(classes)} classes ({some_of(classes)}).\n'
                f'  to fix it: num_classes={len(classes)} in model.{head.place} and in every other '
                'head of the model, or the data that the model was made for.'
            )


def made_lazily(dataset: Mapping) -> Any:
    """The dataset as its host makes it, without reading its files."""
    return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})


def check_images(
    files: Sequence[str], dataset: Mapping, place: str, glance: Glance
) -> Iterator[Fault]:
    """The fault of a dataset's own files that cannot be read."""
    loader = loader_of(dataset.get('pipeline') or [])
    return check_readable(files, place.partition('.')[0], loader, glance)


def as_python(names: Sequence[str]) -> str:
    """The names as a user would write them in a config."""
    return repr(tuple(names)) if len(names) <= 6 else f'({", ".join(map(repr, names[:6]))}, ...)'


def check_levels(cfg: Config) -> None:
    """The channels that each head expects against those of our backbone, before it is built."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    neck = model.get('neck') or {'type': 'GlobalAveragePooling'}  # as many channels behind it
    family = family_of(backbone)
    if family is None or family.widths is None or type_name(neck) != 'GlobalAveragePooling':
        return
    arch = backbone.get('arch')
    stages = family.widths(backbone)
    widths = [stages[i] for i in sorted(backbone.get('out_indices', range(len(stages))))]
    for name in ('decode_head', 'auxiliary_head', 'head'):
        heads = model.get(name) or []
        for head in [heads] if isinstance(heads, dict) else heads:
            channels, levels = head.get('in_channels'), head.get('in_index', -1)
            if not isinstance(channels, (list, tuple)) or not isinstance(levels, (list, tuple)):
                channels, levels = [channels], [levels]
            try:
                found = [widths[i] for i in levels]
            except (IndexError, TypeError):
                continue  # the head knows better what is wrong with them
            if [*channels] != found and all(isinstance(c, int) for c in channels):
                where = f'levels in_index={_plain(levels)}' if 'in_index' in head else 'last stage'
                raise UserError(
                    f'{name} ({type_name(head)}) has in_channels={_plain(channels)}, but the '
                    f'{where} of the backbone'
                    + (f' (arch={arch!r})' if isinstance(arch, str) else '')
                    + f' {"have" if "in_index" in head else "has"} {_plain(found)} channels.\n'
                    f'  to fix it: in_channels={_plain(found)} in {name}, or the arch that fits.'
                )


def _plain(numbers: Sequence[int]) -> str:
    """As it stands in a config: a list, or the number where there is one."""
    return str([*numbers] if len(numbers) > 1 else numbers[0])
