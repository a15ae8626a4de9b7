"""What a file of weights says about itself: what it is of, its classes, how images are normalised.

The facts come from a config that the user names, from the checkpoint's own ``meta``, or from the config
of the published row that the weights belong to, in this order, and the file says from where. A config
that is kept in a checkpoint as a text is read as data: nothing in it is run.
"""

import ast
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

from paca_mm import __version__
from paca_mm.errors import some_of
from paca_mm.families import family_with
from paca_mm.paths import assets_root

from .layout import KeyLayout

#: A config as a text that is longer is none of mmengine's.
_LONGEST_TEXT = 2**20

#: The layer whose rows are the classes, by its key, and how many rows are none of them.
_CLASSIFIERS = {
    'head.fc.weight': 0,
    'head.weight': 0,
    'decode_head.conv_seg.weight': 0,
    'roi_head.bbox_head.fc_cls.weight': 1,
}


@dataclass(frozen=True)
class Facts:
    """What is known of a model beside its weights.

    Attributes:
        stated_by: Who says so: ``'the checkpoint'``, or the path of a config.
        classes: Their names.
        palette: A colour for each, (red, green, blue) from 0 to 255.
        normalisation: ``mean`` and ``std`` of every channel, of values from 0 to 255, and the order of
            the ``channels``, ``'rgb'`` or ``'bgr'``, in which the network takes them.
    """

    stated_by: str
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, ...], ...] | None = None
    normalisation: Mapping[str, Any] | None = None

    def meta(self) -> dict[str, Any]:
        """As it stands in the ``meta`` of a checkpoint, the classes where OpenMMLab's tools look."""
        known: dict[str, Any] = {}
        if self.classes:
            known['dataset_meta'] = dict(classes=self.classes)
            if self.palette:
                known['dataset_meta']['palette'] = self.palette
        if self.normalisation:
            known['normalisation'] = dict(self.normalisation)
        return {**known, 'stated_by': self.stated_by} if known else {}


def facts_of(
    content: Any,
    state: Mapping[str, Tensor],
    layout: KeyLayout | None = None,
    rows: Sequence[str] = (),
    task: str = '',
    config: Config | None = None,
) -> Facts | None:
    """What is known of the model that weights are of; None if nothing is.

    Args:
        content: The whole checkpoint, with its ``meta`` if it has one.
        state: Its weights.
        layout: Of its backbone.
        rows: The published rows that it may be.
        task: As ``task_of_keys`` says.
        config: What it was trained with, if the user says so.
    """
    if config is not None:
        return facts_in_config(config, str(config.filename))
    meta = content.get('meta') if isinstance(content, Mapping) else None
    stated = facts_in_meta(meta) if isinstance(meta, Mapping) else None
    if stated is not None and stated.classes and stated.normalisation:
        return stated
    return stated or _facts_of_row(state, layout, rows, task)


def facts_in_meta(meta: Mapping[str, Any]) -> Facts | None:
    """Those that a checkpoint states: mmengine's, older ones of the hosts, and our own."""
    dataset = dataset_meta_in(meta)
    normalisation = meta.get('normalisation')
    if not _is_normalisation(normalisation):
        text = meta.get('cfg') or meta.get('config')
        settings = settings_in_text(text) if isinstance(text, str) else {}
        normalisation = normalisation_in(settings)
    facts = Facts(
        'the checkpoint',
        _names(dataset.get('classes')),
        _colours(dataset.get('palette')),
        normalisation,
    )
    return facts if facts.classes or facts.normalisation else None


def dataset_meta_in(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Classes and palette as a checkpoint's ``meta`` has them, or as the hosts wrote them before."""
    dataset = meta.get('dataset_meta')
    if isinstance(dataset, Mapping):
        return dataset
    return {name.lower(): meta[name] for name in ('CLASSES', 'PALETTE') if meta.get(name)}


def facts_in_config(cfg: Mapping[str, Any], name: str) -> Facts:
    """Those that a config states; the classes of a public dataset only where its host is installed."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    known: Any = dataset.get('metainfo') or {}
    if not known.get('classes'):
        scope = cfg.get('default_scope')
        with suppress(Exception), DATASETS.switch_scope_and_registry(scope) as registry:
            if dataset.get('type'):  # without its host the names are not known
                known = {**getattr(registry.get(dataset['type']), 'METAINFO', {}), **known}
    return Facts(
        name, _names(known.get('classes')), _colours(known.get('palette')), normalisation_in(cfg)
    )


def _facts_of_row(
    state: Mapping[str, Tensor], layout: KeyLayout | None, rows: Sequence[str], task: str
) -> Facts | None:
    """Those of the config of a published row, if all configs that it may be say the same.

    The weights may be somebody's own, of the same size: the classes must at least be as many.
    """
    owner = family_with(layout)
    if owner is None or owner.catalogue is None:
        return None
    found: list[Facts] = []
    for kind, described in owner.catalogue.kinds.items():
        for row in rows if described.task == task else ():
            file = assets_root() / owner.catalogue.config(kind, row)
            if row in owner.catalogue.rows_of(kind) and file.is_file():
                name = file.relative_to(assets_root()).as_posix()
                found.append(facts_in_config(Config.fromfile(file), name))
    if not found or any(_but_name(facts) != _but_name(found[0]) for facts in found):
        return None
    first = found[0]
    count = class_count(state)
    if count is not None and first.classes and count != len(first.classes):
        return None  # another dataset than that of the row
    return first


def _but_name(facts: Facts) -> tuple:
    return facts.classes, facts.palette, facts.normalisation


def class_count(state: Mapping[str, Tensor]) -> int | None:
    """How many classes weights tell apart, by their last layer; None where that is not known."""
    for key, others in _CLASSIFIERS.items():
        if key in state:
            return state[key].shape[0] - others
    return None


def normalisation_in(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The normalisation of images that a config states; None if it states none."""
    model = settings.get('model')
    model = model if isinstance(model, Mapping) else {}
    for node in (
        model.get('data_preprocessor'),
        settings.get('data_preprocessor'),
        settings.get('img_norm_cfg'),  # before OpenMMLab 2.0
    ):
        if not isinstance(node, Mapping):
            continue
        mean, std = _numbers(node.get('mean')), _numbers(node.get('std'))
        if mean and std and len(mean) == len(std):
            is_rgb = bool(node.get('bgr_to_rgb') or node.get('to_rgb'))  # files are read as BGR
            return dict(channels='rgb' if is_rgb else 'bgr', mean=mean, std=std)
    return None


def settings_in_text(text: str) -> dict[str, Any]:
    """The settings of a config that is kept as a text, as far as they are plain data.

    Constants, lists, tuples, dicts and ``dict(...)`` are understood, and nothing is run. A setting
    that is anything else is left out.
    """
    if len(text) > _LONGEST_TEXT:
        return {}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            with suppress(ValueError, TypeError, RecursionError):
                found[statement.targets[0].id] = _value(statement.value)
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(child) for child in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Call) and not node.args and ast.unparse(node.func) == 'dict':
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    raise ValueError('it is no plain data')


def about(
    source: str | os.PathLike, task: str, backbone: str, rows: Sequence[str]
) -> dict[str, Any]:
    """The part of a file's ``meta`` that every file has."""
    meta: dict[str, Any] = dict(
        paca_mm_version=__version__,
        converted_from=os.path.basename(os.fspath(source)),
        task=task,
        backbone=backbone,
    )
    return {**meta, 'row': ' or '.join(rows)} if rows else meta


def progress_in(content: Any) -> dict[str, int]:
    """How long a model had been trained when it was saved: ``epoch`` and ``iter``, if that is known."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return {}
    return {
        name: meta[name]
        for name in ('epoch', 'iter')
        if isinstance(meta.get(name), int) and not isinstance(meta[name], bool)
    }


def as_strings(meta: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The ``metadata`` of a safetensors file, which is text by name; what is no text is JSON.

    Args:
        meta: As a ``.pth`` file has it.
        state: The weights; the versions of its modules, torch's ``_metadata``, are kept too.
    """
    flat = {key: value for key, value in meta.items() if key != 'dataset_meta'}
    flat |= meta.get('dataset_meta', {})
    versions = {
        key: value
        for key, value in getattr(state, '_metadata', {}).items()
        if value not in ({}, None)
    }
    flat |= {'module_versions': versions} if versions else {}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in flat.items()}
    return {'format': 'pt', **texts}


def from_strings(
    metadata: Mapping[str, str] | None, state: Mapping[str, Tensor]
) -> 'dict[str, Any] | OrderedDict[str, Tensor]':
    """What a safetensors file holds, as a ``.pth`` file would hold it: ``meta`` and ``state_dict``.

    Files that others have written have no facts of ours: their bare state dict. What is not as it should
    be is left out.
    """
    weights = OrderedDict(state)
    if not metadata or 'paca_mm_version' not in metadata:
        return weights
    values: dict[str, Any] = {}
    for key, text in metadata.items():
        values[key] = text
        if key in ('classes', 'palette', 'normalisation', 'epoch', 'iter', 'module_versions'):
            try:
                values[key] = json.loads(text)
            except (ValueError, RecursionError):
                del values[key]
    if not _is_normalisation(values.get('normalisation')):
        values.pop('normalisation', None)
    versions = values.pop('module_versions', None)
    if isinstance(versions, Mapping) and all(isinstance(v, Mapping) for v in versions.values()):
        vars(weights)['_metadata'] = OrderedDict((k, dict(v)) for k, v in versions.items())
    dataset: dict[str, Any] = {}
    if classes := _names(values.pop('classes', None)):
        dataset['classes'] = classes
    if palette := _colours(values.pop('palette', None)):
        dataset['palette'] = palette
    values.pop('format', None)
    if dataset:
        values['dataset_meta'] = dataset
    return {'meta': values, 'state_dict': weights}


def described(content: Any, meta: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """A file in words, a line a fact."""
    dtypes = sorted({str(value.dtype).removeprefix('torch.') for value in state.values()})
    numbers = sum(value.numel() for value in state.values())
    rows = {
        'task': meta.get('task'),
        'backbone': meta.get('backbone'),
        'row': meta.get('row'),
        'weights': f'{len(state)} tensors, {numbers / 1e6:.2f} M numbers, {", ".join(dtypes)}',
    }
    dataset = meta.get('dataset_meta') or {}
    if classes := dataset.get('classes'):
        rows['classes'] = f'{len(classes)}: {some_of(classes)}'
    if norm := meta.get('normalisation'):
        rows['normalisation'] = (
            f'{norm["channels"]}, mean {norm["mean"]}, std {norm["std"]} (of 0 to 255)'
        )
    rows['stated by'] = meta.get('stated_by')
    progress = progress_in({'meta': meta}) or progress_in(content)
    if progress:
        rows['trained'] = ', '.join(f'{name} {value}' for name, value in progress.items())
    rows['made from'] = meta.get('converted_from')
    rows['written by'] = meta.get('paca_mm_version') and f'paca_mm {meta["paca_mm_version"]}'
    return '\n'.join(f'{name:<14} {value}' for name, value in rows.items() if value)


def _is_normalisation(value: Any) -> bool:
    return isinstance(value, Mapping) and {'channels', 'mean', 'std'} <= value.keys()


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None


def _colours(value: Any) -> tuple[tuple[int, ...], ...] | None:
    try:
        colours = tuple(tuple(int(part) for part in colour) for colour in value)
    except (TypeError, ValueError):
        return None
    return colours if colours and all(len(c) == 3 and min(c) >= 0 for c in colours) else None


def _numbers(value: Any) -> list[float] | None:
    if isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) for x in value):
        return [float(x) for x in value]
    return None
