"""The tasks, one object each: what differs between detection, segmentation and classification.

A config's task is found once, by :func:`task_for`, and handed on.
"""

from collections.abc import Mapping
from typing import Any

from paca_mm.errors import UserError

from .base import Task
from .cls import Classification
from .det import Detection
from .seg import Segmentation

#: The tasks by the name of their folder in ``configs/``.
TASKS: dict[str, Task] = {
    task.name: task for task in (Detection(), Segmentation(), Classification())
}


def task_for(cfg: Mapping[str, Any]) -> Task:
    """The task of a config, by its ``default_scope``.

    Raises:
        UserError: The config has no ``default_scope`` of the three.
    """
    scope = cfg.get('default_scope')
    scopes = {task.scope: task for task in TASKS.values()}
    if scope not in scopes:
        raise UserError(
            f'default_scope={scope!r} in the config: it must be one of {", ".join(scopes)}, so that '
            'it is known whether to detect, segment or classify.'
        )
    return scopes[scope]


__all__ = ['TASKS', 'Task', 'task_for']
