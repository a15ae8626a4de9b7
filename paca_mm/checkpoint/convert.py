"""Complete checkpoints from the official layout to ours and back, tensors untouched.

What a file holds is found out from its keys; see :mod:`~paca_mm.checkpoint.layout` for the tables.
"""

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from torch import Tensor

from paca_mm.errors import UserError, did_you_mean, some_of
from paca_mm.families import families, layouts
from paca_mm.files import replacing

from .finite import check_finite
from .layout import KeyLayout
from .load import below, compare, differences
from .metadata import about, as_strings, described, facts_of, progress_in
from .read import read_checkpoint, unwrap
from .rename import find_layout

#: What a checkpoint may be of, by a key (or the beginning of keys) that nothing else has.
TASKS = {
    'cls': ('head.weight', 'head.fc.weight', 'fc.weight', 'classifier.1.weight'),
    'det': ('rpn_head.', 'roi_head.', 'bbox_head.'),
    'seg': ('decode_head.',),
}
TASK_NAMES = {
    'cls': 'classification',
    'det': 'detection',
    'seg': 'segmentation',
    'backbone': 'bare backbone',
}
SUFFIXES = ('.pth', '.safetensors')


@dataclass(frozen=True)
class Conversion:
    """A converted state dict, and what became of every key.

    Attributes:
        task: ``'cls'``, ``'det'``, ``'seg'``, or ``'backbone'`` for one without anything around it.
        rows: The published rows that the backbone may be; none for other sizes.
        backbone: The backbone in words.
        state: The result.
        renamed: (key in the source, key in the result), for every key that is kept.
        dropped: Keys of the source that the result does without (constants of the architecture).
        added: Keys of the result that were not in the source (the same constants).
        left: What the file held besides the weights, such as the optimizer's state.
        wrapper: Under what name the file had the weights; ``''`` for none.
    """

    task: str
    rows: tuple[str, ...]
    backbone: str
    state: 'OrderedDict[str, Tensor]'
    renamed: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    left: tuple[str, ...] = ()
    wrapper: str = ''

    def __str__(self) -> str:
        return '\n'.join([*self._head(), *_by_pattern(self.renamed), *self._tail()])

    def every_key(self) -> str:
        """The report with a line for every single key."""
        lines = [f'  {a} -> {b}' if a != b else f'  {a}' for a, b in self.renamed]
        return '\n'.join([*self._head(), *lines, *self._tail()])

    def _head(self) -> list[str]:
        changed = sum(a != b for a, b in self.renamed)
        return [
            f'{TASK_NAMES[self.task]} checkpoint; backbone: {self.backbone}',
            f'{len(self.renamed)} tensors: {changed} renamed, {len(self.renamed) - changed} under '
            'the same name' + (f', from {self.wrapper}' if self.wrapper else ''),
        ]

    def _tail(self) -> list[str]:
        lines = []
        if self.dropped:
            lines.append(f'{len(self.dropped)} constants left out: {some_of(self.dropped)}')
        if self.added:
            lines.append(f'{len(self.added)} constants added: {some_of(self.added)}')
        if self.left:
            lines.append(f'not weights, left out: {some_of(self.left)}')
        return lines


def convert_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    to_official: bool = False,
    force: bool = False,
    task: str | None = None,
    row: str | None = None,
    config: Config | None = None,
) -> Conversion:
    """Convert a checkpoint file; the target appears only when it is complete.

    A checkpoint that has the layout already is written as it is where the target is of the other
    kind, ``.safetensors`` from a training's ``.pth`` say; then it may be of any model. The file says
    what it is of (see :mod:`.metadata`).

    Args:
        source: File or URL of a classifier, detector, segmentor or bare backbone.
        target: A ``.pth`` or ``.safetensors`` file. A ``.pth`` in our layout is what OpenMMLab's
            tools write (``meta`` and ``state_dict``), an official one a bare state dict.
        to_official: From our layout to the official one, instead of the other way.
        force: Write over an existing file.
        task: Raise unless it is a checkpoint of this task.
        row: Raise unless the backbone looks like this published row.
        config: What the weights were trained with, which knows the classes and the normalisation.

    Raises:
        UserError: The source cannot be read, is not what was asked for, is incomplete, has the
            target's layout already, or has weights that are not finite; or the target exists, or
            cannot be written.
    """
    target = Path(target).expanduser()
    _check_target(target, source, force)
    content, state, wrapper = _weights(source)
    other_kind = Path(urlparse(os.fspath(source)).path).suffix != target.suffix
    conversion = convert(
        state, source, to_official=to_official, task=task, row=row, or_as_it_is=other_kind
    )
    if wrapper:
        left = tuple(key for key in map(str, content) if key != wrapper)
        conversion = replace(conversion, left=left, wrapper=wrapper)
    meta = None if to_official else _meta(content, state, source, conversion, config)
    _write(target, conversion.state, meta)
    return conversion


def describe_file(source: str | os.PathLike, config: Config | None = None) -> str:
    """What a checkpoint is of, in words; see :mod:`.metadata`.

    Raises:
        UserError: It cannot be read, or holds no weights.
    """
    content, state, _ = _weights(source)
    conversion = convert(state, source, or_as_it_is=True)
    kept = content.get('meta') if isinstance(content, Mapping) else None
    kept = kept if isinstance(kept, Mapping) and 'paca_mm_version' in kept else {}
    meta = _meta(content, state, source, conversion, config)
    fresh = ('paca_mm_version', 'converted_from')  # of a file that would be written now
    own = {key: value for key, value in meta.items() if key not in fresh}
    return described(content, {**own, **{k: kept[k] for k in fresh if k in kept}}, state)


def _weights(source: str | os.PathLike) -> tuple[Any, 'OrderedDict[str, Tensor]', str]:
    """A checkpoint, its weights (those that the authors evaluate), and their wrapper."""
    content = read_checkpoint(source)
    state, wrapper = unwrap(content, source)
    if (found := find_layout(state)) and found[0].prefer:
        state, wrapper = unwrap(content, source, found[0].prefer)
    return content, state, wrapper


def _meta(
    content: Any,
    state: Mapping[str, Tensor],
    source: str | os.PathLike,
    conversion: Conversion,
    config: Config | None,
) -> dict[str, Any]:
    layout, _ = find_layout(state) or (None, '')
    facts = facts_of(content, state, layout, conversion.rows, conversion.task, config)
    return {
        **about(source, conversion.task, conversion.backbone, conversion.rows),
        **(facts.meta() if facts else {}),
        **progress_in(content),
    }


def convert(
    state: Mapping[str, Tensor],
    source: str | os.PathLike = 'the state dict',
    *,
    to_official: bool = False,
    task: str | None = None,
    row: str | None = None,
    or_as_it_is: bool = False,
) -> Conversion:
    """Convert a state dict; see :func:`convert_file`. The tensors share the memory of the given ones.

    Args:
        or_as_it_is: Keep the names of one that has the layout already, or that is of another model.
    """
    layout, prefix = find_layout(state) or (None, '')
    if layout is None and or_as_it_is and not to_official and row is None:
        found = task_of_keys(state)
        _check_task(found, source, task)
        check_finite(state, source)
        return _as_it_is(state, found, (), 'none of this package')
    if layout is None:
        known = list(layouts())
        raise UserError(
            f'{source} holds no {" or ".join(k.title for k in known)} backbone (no key ends in '
            f'{" or ".join(repr(k.anchor) for k in known)}); its keys are {some_of(state, 4)}.'
        )
    found = task_of_keys(state)
    # The backbone by itself, in our layout: what the checks and the report look at.
    backbone = below(state, prefix)
    heads = tuple(official for official, _ in layout.classifier if official)
    for key in [k for k in backbone if heads and k.startswith(heads)]:
        del backbone[key]  # at the top of an official classifier
    is_official = layout.is_official(backbone)
    layout.to_ours(backbone, bare=True)
    _check_wanted(layout, backbone, source, found, task, row)
    if is_official is to_official and or_as_it_is and not to_official:
        _check_complete(layout, backbone, source)
        check_finite(state, source)
        rows = layout.rows(layout.settings(backbone))
        return _as_it_is(state, found, rows, layout.describe_state(backbone))
    if is_official is to_official:
        raise UserError(
            f'{source} has the official layout already: leave --to-official out to convert it to '
            'this package.'
            if to_official
            else f"{source} has this package's layout already: it loads as it is; --to-official "
            'goes the other way.'
        )
    _check_complete(layout, backbone, source)
    check_finite(state, source)

    # What became of a key is told by its tensor, which travels: views, so that no two are the same.
    result = OrderedDict((key, value.detach()) for key, value in state.items())
    origin = {id(value): key for key, value in result.items()}
    if to_official:
        layout.to_official(result, prefix)
        if found == 'cls':
            layout.classifier_to_official(result)
    else:
        layout.to_ours(result, bare=found != 'cls')
    renamed = {origin[id(value)]: key for key, value in result.items() if id(value) in origin}
    order = [renamed[key] for key in state if key in renamed]  # that of the source
    added = [key for key, value in result.items() if id(value) not in origin]
    return Conversion(
        task=found,
        rows=layout.rows(layout.settings(backbone)),
        backbone=layout.describe_state(backbone),
        state=OrderedDict((key, result[key]) for key in [*order, *added]),
        renamed=tuple((key, renamed[key]) for key in state if key in renamed),
        dropped=tuple(key for key in state if key not in renamed),
        added=tuple(added),
    )


def _as_it_is(
    state: Mapping[str, Tensor], task: str, rows: tuple[str, ...], backbone: str
) -> Conversion:
    kept = OrderedDict(state)
    vars(kept)['_metadata'] = getattr(state, '_metadata', OrderedDict())
    names = tuple((key, key) for key in state)
    return Conversion(task, rows, backbone, kept, names, dropped=(), added=())


def task_of_keys(keys: Iterable[str]) -> str:
    """What a checkpoint is of: ``'cls'``, ``'det'``, ``'seg'``, or ``'backbone'`` if of no more."""
    keys = list(keys)
    for task, marks in TASKS.items():
        if any(
            key == mark or (mark[-1] == '.' and key.startswith(mark))
            for key in keys
            for mark in marks
        ):
            return task
    return 'backbone'


def _check_target(target: Path, source: str | os.PathLike, force: bool) -> None:
    if target.suffix not in SUFFIXES:
        raise UserError(f'{target}: the name must end in {" or ".join(SUFFIXES)}.')
    if target.is_dir():
        raise UserError(f'{target} is a folder; name a file in it.')
    if target.exists() and os.path.exists(source) and target.samefile(source):
        raise UserError(f'{target} is the source itself: name another file.')
    if target.exists() and not force:
        raise UserError(f'{target} exists already; --force writes over it.')
    if not target.absolute().parent.is_dir():
        raise UserError(f'the folder {target.absolute().parent} does not exist: make it first.')


def _check_wanted(
    layout: KeyLayout,
    backbone: Mapping[str, Tensor],
    source: str | os.PathLike,
    found: str,
    task: str | None,
    row: str | None,
) -> None:
    """It is a checkpoint of the task and the row that were asked for."""
    looks = layout.describe_state(backbone)
    _check_task(found, source, task, f' Its backbone looks like {looks}.')
    if row is None:
        return
    known = [name for family in families().values() for name in family.rows]
    if row not in known:
        raise UserError(
            f'there is no published row {row!r}{did_you_mean(row, known)} Known: {", ".join(known)}.'
        )
    if row not in layout.rows(layout.settings(backbone)):
        raise UserError(f'{source} is not the row {row}: its backbone looks like {looks}.')


def _check_task(found: str, source: str | os.PathLike, task: str | None, more: str = '') -> None:
    if task is not None and task != found:
        raise UserError(
            f'{source} is a {TASK_NAMES[found]} checkpoint, not a {TASK_NAMES[task]} one.{more}'
        )


def _check_complete(
    layout: KeyLayout, backbone: Mapping[str, Tensor], source: str | os.PathLike
) -> None:
    """A backbone that looks like a published row has all its keys and no others."""
    settings = layout.settings(backbone)
    if not layout.rows(settings):
        return  # a size of the user's own: nothing to hold it against
    with torch.device('meta'):  # shapes without memory
        own = layout.build(settings).state_dict()
    missing, foreign, misfits = compare(own, backbone)
    if missing or foreign or misfits:
        raise UserError(
            f'{source} looks like {layout.describe_state(backbone)}, but it is not complete.\n'
            + differences(missing, misfits, foreign)
        )


def _by_pattern(renamed: Iterable[tuple[str, str]]) -> list[str]:
    """The renamings, those that differ in their numbers and last words alone on one line."""
    counts = Counter((_pattern(a), _pattern(b)) for a, b in renamed)
    return [f'  {n:4d}  {a} -> {b}' if a != b else f'  {n:4d}  {a}' for (a, b), n in counts.items()]


def _pattern(key: str) -> str:
    """A parameter's module, with a star for the number of a stage, block, level or branch."""
    # The numbers that end official names (clustering.0, block1.0.3) are layers of different kinds.
    name = re.sub(r'(stages?\.?|block|backbone\.)\d+\.\d+', r'\1*.*', key.rpartition('.')[0])
    return re.sub(r'(transition|lateral|fpn|to_clusters|convs\.)\d+', r'\1*', name)


def _write(target: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any] | None) -> None:
    # Copies: a view would be written with all of its storage, and safetensors refuses shared ones.
    versions = getattr(state, '_metadata', None)
    state = OrderedDict((key, value.contiguous().clone()) for key, value in state.items())
    if versions:
        vars(state)['_metadata'] = versions
    with replacing(target) as part:
        if target.suffix == '.pth':
            content = state if meta is None else {'meta': dict(meta), 'state_dict': state}
            torch.save(content, part)
        else:
            save_safetensors(state, part, meta)


def save_safetensors(
    state: Mapping[str, Tensor], path: Path, meta: Mapping[str, Any] | None = None
) -> None:
    """Write weights and what is known of them; see :func:`~.metadata.as_strings`.

    Raises:
        UserError: The package safetensors is missing.
    """
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(
            'writing .safetensors takes the package safetensors: pip install safetensors; or name '
            'a .pth file.'
        ) from None
    save_file(dict(state), path, metadata=as_strings(meta or {}, state))
