"""What the checks of every task need: the datasets of a config, their paths, classes and images."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from paca_mm.datasets.images import broken_images, loader_of
from paca_mm.errors import UserError, some_of
from paca_mm.families import family_of

#: Images looked at before a run; the others are found when they are read.
SAMPLE = 2000

#: Masks looked at before a run, which takes longer: each is decoded.
SAMPLE_MASKS = 200


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


def path_in(dataset: dict, path: Any) -> str:
    """A path of a dataset, below its ``data_root``."""
    return os.path.join(dataset.get('data_root') or '', path if isinstance(path, str) else '')


def classes_of(dataset: dict) -> tuple[str, ...] | None:
    """The classes that a dataset expects: its ``metainfo``, or what its type is known for."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(dataset['type'])
        classes = getattr(cls, 'METAINFO', {}).get('classes')
    if isinstance(classes, str):
        return tuple(Path(classes).read_text().split()) if os.path.isfile(classes) else (classes,)
    return tuple(classes) if classes else None


class Head(NamedTuple):
    """A part of a model that has a class count.

    Attributes:
        place: Where it stands in the model, ``'roi_head.bbox_head'``.
        type: What it is.
        num_classes: Its class count.
    """

    place: str
    type: str
    num_classes: int


def heads_of(cfg: Config) -> list[Head]:
    """The parts of a model that have a class count."""

    def below(node: Any, place: str) -> Iterator[Head]:
        if isinstance(node, dict) and isinstance(node.get('num_classes'), int):
            yield Head(place or 'model', node.get('type', 'model'), node['num_classes'])
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(child, (dict, list, tuple)):
                yield from below(child, f'{place}.{name}'.lstrip('.'))

    # A data preprocessor counts classes as well; a head explains a mistake better.
    found = below(cfg.get('model') or {}, '')
    return sorted(found, key=lambda head: head.place.startswith('data_preprocessor'))


def check_num_classes(cfg: Config, classes: Sequence[str], place: str) -> None:
    """Every head has as many classes as the dataset."""
    for head in heads_of(cfg):
        if head.num_classes != len(classes):
            raise UserError(
                f'{head.type} has num_classes={head.num_classes}, but the dataset of '
                f'{place.partition(".")[0]} has {len(classes)} classes ({some_of(classes)}).\n'
                f'  to fix it: num_classes={len(classes)} in every head of the model, or the data '
                'that the model was made for.'
            )


def is_dataset(dataset: dict, base: type) -> bool:
    """Whether a dataset is of a class of its host, or of one derived from it."""
    with DATASETS.switch_scope_and_registry(None) as registry:
        cls = registry.get(dataset['type'])
    return isinstance(cls, type) and issubclass(cls, base)


def made_lazily(dataset: dict) -> Any:
    """The dataset as its host makes it, without reading its files."""
    return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})


def check_images(files: Sequence[str], dataset: dict, place: str) -> None:
    """A sample of a dataset's own files can be read.

    Raises:
        UserError: Some cannot; the message names them.
    """
    loader = loader_of(dataset.get('pipeline') or [])
    if broken := broken_images(files, sample=SAMPLE, loader=loader):
        lines = '\n  '.join(broken)
        raise UserError(
            f'images of {place.partition(".")[0]} cannot be read:\n  {lines}\n'
            '  to fix it: fetch these files again, or remove them and their annotations.'
        )


def as_python(names: Sequence[str]) -> str:
    """The names as a user would write them in a config."""
    return repr(tuple(names)) if len(names) <= 6 else f'({", ".join(map(repr, names[:6]))}, ...)'


def check_levels(cfg: Config) -> None:
    """The channels that each head expects against those of our backbone, before it is built."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    neck = model.get('neck') or {'type': 'GlobalAveragePooling'}  # as many channels behind it
    family = family_of(backbone.get('type') or '')
    if family is None or family.widths is None or 'GlobalAveragePooling' not in neck.values():
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
                    f'{name} ({head.get("type")}) has in_channels={_plain(channels)}, but the '
                    f'{where} of the backbone'
                    + (f' (arch={arch!r})' if isinstance(arch, str) else '')
                    + f' {"have" if "in_index" in head else "has"} {_plain(found)} channels.\n'
                    f'  to fix it: in_channels={_plain(found)} in {name}, or the arch that fits.'
                )


def _plain(numbers: Sequence[int]) -> str:
    """As it stands in a config: a list, or the number where there is one."""
    return str([*numbers] if len(numbers) > 1 else numbers[0])
