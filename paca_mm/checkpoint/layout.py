"""The keys of a family's checkpoints: one table between the official names and ours, used both ways."""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from torch import Tensor

from paca_mm.errors import UserError

#: (official, ours)
Table = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Constant:
    """A tensor that official checkpoints carry and our models do not, since it never changes.

    Attributes:
        key: Its official key, with ``{i}`` and ``{j}`` for numbers.
        beside: The official key of a parameter that is there whenever the constant is.
        value: The constant, from that parameter.
        what: What messages call it; a file with another value is refused. ``''`` where any value
            will do, because the official model never reads it.
    """

    key: str
    beside: str
    value: Callable[[Tensor], Tensor]
    what: str = ''


def words_of(settings: Mapping[str, Any]) -> str:
    """Arguments as they are written in a config."""
    return ', '.join(f'{key}={value!r}' for key, value in settings.items())


def in_built_stages(keys: Iterable[str], model: nn.Module, stage: str, first: int = 0) -> list[str]:
    """The keys of stages that a model has, whatever else is in a file.

    Args:
        keys: Ours, without prefix.
        model: A backbone that says how many stages it has (``num_stages``).
        stage: What the beginning of a stage's key matches, with the stage's number as its group.
        first: The number of the first stage.
    """
    end = getattr(model, 'num_stages', 0) + first
    return [key for key in keys if (m := re.match(stage, key)) and int(m[1]) < end]


@dataclass(frozen=True)
class KeyLayout:
    """What is to be known about the checkpoints of a family.

    What the table does not name is called the same on both sides. In it ``{i}`` and ``{j}`` are
    numbers; what follows a row's name (``.weight``, ``.running_mean``) is kept. A row may also be a
    whole key.

    Attributes:
        title: What messages call the backbone.
        anchor: The key by which the backbone is found inside a checkpoint, in either layout.
        other_anchors: What that key is called besides: officially, or in other kinds of the backbone.
        table: The rows for a backbone with these keys, of either layout.
        settings: The arguments of the backbone that a state dict (ours, without prefix) shows.
        build: A backbone from such arguments.
        rows: The published rows that such arguments may belong to; none for other sizes.
        describe: Such arguments in a few words; by default each by its name.
        foreign: Which of some unexpected keys tell that a file is of another model, rather than
            that the model was built with fewer stages than the file: ``(keys, model) -> keys``.
        constants: Tensors that only the official layout has.
        classifier: What the keys of an official classifier begin with, and those of mmpretrain's;
            detectors and segmentors are called the same on both sides. The last row is the backbone.
        restart: What the keys of layers match that may start again at another size of their first
            dimension, when a backbone is fine-tuned.
        first_convs: The convolutions that see the image, our names, without ``.weight``.
        prefer: Under what names a file may keep the weights that the authors evaluate, where it has
            others beside them: ``('state_dict_ema',)``.
    """

    title: str
    anchor: str
    table: Callable[[Iterable[str]], Table]
    settings: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    build: Callable[[Mapping[str, Any]], nn.Module]
    rows: Callable[[Mapping[str, Any]], tuple[str, ...]]
    describe: Callable[[Mapping[str, Any]], str] = words_of
    foreign: Callable[[Sequence[str], nn.Module], list[str]] = lambda keys, model: list(keys)
    constants: Sequence[Constant] = ()
    classifier: Table = (('head.', 'head.fc.'), ('', 'backbone.'))
    restart: str = '(?!)'  # nothing
    first_convs: Sequence[str] = ()
    prefer: Sequence[str] = ()
    other_anchors: Sequence[str] = ()

    @property
    def anchors(self) -> tuple[str, ...]:
        """The anchor under all its names."""
        return (self.anchor, *self.other_anchors)

    def find(self, keys: Iterable[str]) -> str | None:
        """What stands before the backbone's keys in a checkpoint, or None if there is none in it."""
        found = [
            key[: -len(anchor)] for key in keys for anchor in self.anchors if key.endswith(anchor)
        ]
        return min(found, key=len) if found else None

    def is_official(self, keys: Iterable[str]) -> bool:
        """Whether a backbone's keys, without prefix, are the official ones."""
        keys = list(keys)
        names = self._translated(keys, to_ours=True)
        return any(names[key] != key for key in keys)

    def may_restart(self, key: str) -> bool:
        """Whether a layer may keep its fresh initialisation where its first dimension differs."""
        return re.search(self.restart, key) is not None

    def describe_state(self, state: Mapping[str, Tensor]) -> str:
        """What a backbone's state dict (ours, without prefix) looks like, in a few words."""
        settings = self.settings(state)
        rows = self.rows(settings)
        named = f' (the published row {" or ".join(rows)})' if rows else ''
        return self.describe(settings) + named

    def to_ours(
        self, state: MutableMapping[str, Any], prefix: str = '', bare: bool = False
    ) -> None:
        """Give a checkpoint our names, in place; keys that have them already stay.

        Args:
            state: A state dict of a backbone, or of a model around one.
            prefix: Keys that do not begin with it are left alone.
            bare: A backbone at the top stays there; otherwise it becomes that of mmpretrain's
                classifier, with ``backbone.`` before its keys.

        Raises:
            UserError: Two keys would get the same name, or a constant is not what it should be, so
                that the model would not be the checkpoint's.
        """
        if not bare:
            self.classifier_to_ours(state, prefix)
        below = self.find(key for key in state if key.startswith(prefix))
        prefix = prefix if below is None else below
        for constant, name in self._constants(state, prefix, lambda c: c.key):
            value = state.pop(name)
            beside = state.get(
                _renumbered(name[len(prefix) :], constant.key, constant.beside, prefix)
            )
            if not constant.what or not isinstance(beside, Tensor):
                continue
            if not value.float().cpu().allclose(constant.value(beside).float().cpu()):
                raise UserError(f'{name} is not {constant.what}.')
        self._rename(state, prefix, to_ours=True)

    def to_official(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        """Give a backbone's keys the official names, in place, and add the official constants."""
        self._rename(state, prefix, to_ours=False)
        for constant, name in self._constants(state, prefix, lambda c: c.beside):
            key = _renumbered(name[len(prefix) :], constant.beside, constant.key, prefix)
            state[key] = constant.value(state[name]).to(state[name])

    def classifier_to_ours(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        """Give an official classifier, or a bare backbone, the keys of mmpretrain's, in place.

        The keys within the backbone stay as they are. A state dict that has no backbone at the top
        stays as it is.
        """
        if any(prefix + anchor in state for anchor in self.anchors):
            exchange(state, prefix, self.classifier)

    def classifier_to_official(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        """The way back of :meth:`classifier_to_ours`, in place."""
        exchange(state, prefix, [(ours, official) for official, ours in self.classifier])

    def _constants(
        self,
        state: Mapping[str, Any],
        prefix: str,
        which: Callable[[Constant], str],
    ) -> list[tuple[Constant, str]]:
        return [
            (constant, key)
            for constant in self.constants
            for key in state
            if key.startswith(prefix) and _pattern(which(constant)).fullmatch(key[len(prefix) :])
        ]

    def _translated(self, keys: list[str], to_ours: bool) -> dict[str, str]:
        """Each key's name in the other layout."""
        rows = []
        for official, ours in self.table(keys):
            source, target = (official, ours) if to_ours else (ours, official)
            rows.append(
                (re.compile(_pattern(source).pattern + r'(?=\.[a-z_]\w*$|$)'), _template(target))
            )
        names = {}
        for key in keys:
            names[key] = key
            for regex, target in rows:
                if regex.match(key):
                    names[key] = regex.sub(target, key)
                    break
        return names

    def _rename(self, state: MutableMapping[str, Any], prefix: str, to_ours: bool) -> None:
        keys = [key[len(prefix) :] for key in state if key.startswith(prefix)]
        names = self._translated(keys, to_ours)
        if len(set(names.values())) != len(names):
            clash = sorted({n for n in names.values() if list(names.values()).count(n) > 1})
            raise UserError(f'the state dict has keys of both layouts that mean the same: {clash}.')
        values = [(names[key], state.pop(prefix + key)) for key in keys]
        state.update((prefix + name, value) for name, value in values)


def _pattern(key: str) -> re.Pattern:
    escaped = re.escape(key)
    return re.compile(escaped.replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{j\}', r'(?P<j>\d+)'))


def _template(key: str) -> str:
    return key.replace('{i}', r'\g<i>').replace('{j}', r'\g<j>')


def _renumbered(key: str, source: str, target: str, prefix: str) -> str:
    """The key ``target`` with the numbers that ``key`` has where ``source`` has ``{i}`` and ``{j}``."""
    return prefix + _pattern(source).sub(_template(target), key)


def exchange(state: MutableMapping[str, Any], prefix: str, rows: Table) -> None:
    """Exchange what keys begin with, by the first row that fits."""
    for key in [key for key in state if key.startswith(prefix)]:
        name, value = key[len(prefix) :], state.pop(key)
        for source, target in rows:
            if name.startswith(source):
                name = target + name[len(source) :]
                break
        state[prefix + name] = value
