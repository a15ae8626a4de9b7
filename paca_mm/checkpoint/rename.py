"""Renaming by what the keys show: the family whose backbone is in a state dict is asked for its table.

See :class:`~paca_mm.checkpoint.layout.KeyLayout`.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any

from paca_mm.families import layouts

from .layout import KeyLayout


def find_layout(keys: Iterable[str]) -> tuple[KeyLayout, str] | None:
    """Whose backbone a checkpoint holds, and what stands before its keys; None if nobody's."""
    keys = list(keys)
    found = [(layout, layout.find(keys)) for layout in layouts()]
    return next(((layout, prefix) for layout, prefix in found if prefix is not None), None)


def _layout_below(state: MutableMapping[str, Any], prefix: str) -> KeyLayout | None:
    found = find_layout(key[len(prefix) :] for key in state if key.startswith(prefix))
    return found[0] if found else None


def rename_to_ours(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give a backbone's keys our names, in place; keys that have them already stay.

    Args:
        state: A state dict; keys outside ``prefix`` are left alone.
        prefix: What stands before the backbone's keys, ``'backbone.'`` say.

    Raises:
        UserError: Two keys would get the same name, or a constant of the architecture is not what it
            should be, so that the model would not be the checkpoint's.
    """
    if layout := _layout_below(state, prefix):
        layout.to_ours(state, prefix, bare=True)


def rename_to_official(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give a backbone's keys the official names, in place, and add the official constants."""
    if layout := _layout_below(state, prefix):
        layout.to_official(state, prefix)


def classifier_to_ours(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give an official classifier (or a bare backbone) the keys of mmpretrain's, in place.

    The keys within the backbone stay as they are: that is :func:`rename_to_ours`'s part. A state
    dict that has no backbone at the top stays as it is.
    """
    if layout := _layout_below(state, prefix):
        layout.classifier_to_ours(state, prefix)


def classifier_to_official(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """The way back of :func:`classifier_to_ours`, in place."""
    if layout := _layout_below(state, prefix):
        layout.classifier_to_official(state, prefix)
