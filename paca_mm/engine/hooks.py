"""Hooks that configs name as ``paca_mm.<Hook>``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import CheckpointHook

from paca_mm.registry import HOOKS


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which removes old checkpoints only after the new one stands.

    The original removes first and writes then, so that a kill in between leaves neither
    (``max_keep_ckpts``, ``save_best``). Takes the same arguments.
    """

    file_backend: Any

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        with self._removals_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._removals_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removals_last(self) -> Iterator[None]:
        backend = self.file_backend
        self.file_backend = _RemovesLater(backend)
        try:
            yield
            self.file_backend.finish()
        finally:
            self.file_backend = backend


class _RemovesLater:
    """A file backend that notes removals and carries them out at the end."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._doomed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._doomed.append(path)

    def finish(self) -> None:
        for path in self._doomed:
            self._backend.remove(path)
