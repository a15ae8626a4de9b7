"""The tasks, one object each: what differs between detection, segmentation and classification.

A config's task is found once, by :func:`task_for`, and handed on.
"""

from collections.abc import Mapping
from typing import Any

from paca_mm.errors import UserError
from paca_mm.type_names import scope_name

from .base import Task
from .cls import Classification
from .det import Detection
from .seg import Segmentation

#: The tasks by the name of their folder in ``configs/``.
TASKS: dict[str, Task] = {
    task.name: task for task in (Detection(), Segmentation(), Classification())
}


def task_for(cfg: Mapping[str, Any]) -> Task:
    """The task of a config, by its ``default_scope``, or else by the host of its model.

    Raises:
        UserError: Neither is of the three hosts.
    """
    scope = cfg.get('default_scope')
    scopes = {task.scope: task for task in TASKS.values()}
    if scope not in scopes and (found := scope_of_model(cfg.get('model') or {})):
        return scopes[found]
    if scope not in scopes:
        raise UserError(
            f'default_scope={scope!r} in the config: it must be one of {", ".join(scopes)}, so that '
            'it is known whether to detect, segment or classify.'
        )
    return scopes[scope]


def scope_of_model(model: Mapping[str, Any]) -> str | None:
    """The host that a model's type says it is of, or derived from; None where it does not."""
    kind = model.get('type')
    bases = kind.__mro__ if isinstance(kind, type) else [kind]
    scopes = [task.scope for task in TASKS.values()]
    return next((scope for base in bases if (scope := scope_name(base)) in scopes), None)


__all__ = ['TASKS', 'Task', 'scope_of_model', 'task_for']
