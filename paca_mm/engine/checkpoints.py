"""When checkpoints are written and removed: regularly, and at once where a run has to stop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook

from paca_mm.files import CannotWrite, replacing
from paca_mm.registry import HOOKS

# Kept in the message hub, and so in every checkpoint: files that go once it stands, each with its
# identity; names of what `save_now` has written since the last regular one.
_DOOMED, _INTERIM = 'doomed_ckpts', 'interim_ckpts'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which a kill costs nothing. Takes the same arguments.

    * Old checkpoints are removed after the new one stands (``max_keep_ckpts``, ``save_best``). The
      original removes first and writes then, so that a kill in between leaves neither.
    * What a kill has kept from being removed is removed by the resumed run, where it is still the
      very file that was written. Nothing else is touched.
    * A checkpoint that was written before a validation is written again behind it, with what was
      measured: a run that goes on from it need not validate again.
    """

    file_backend: Any
    last_ckpt: Any
    _written_at: int | None = None  # the iteration of the last regular checkpoint
    _interim: dict[str, list[int] | None]  # name -> identity of what save_now has written

    def before_train(self, runner: Any) -> None:
        """As the base class; finish the removals that a kill has cut off."""
        super().before_train(runner)
        info = runner.message_hub.runtime_info
        for name, identity in info.get(_DOOMED, ()):
            path = os.path.join(self.out_dir, name)
            if is_main_process() and _identity(path) == identity:
                os.remove(path)
                runner.logger.info(f'{path} is removed, which a kill had prevented.')
        runner.message_hub.update_info(_DOOMED, [])
        interim = info.get(_INTERIM, ())
        self._interim = {name: _identity(os.path.join(self.out_dir, name)) for name in interim}
        step = runner.epoch if self.by_epoch else runner.iter
        resumed = os.path.join(self.out_dir, self.filename_tmpl.format(step))
        if runner._resume and os.path.abspath(runner._load_from or '') == os.path.abspath(resumed):
            self.last_ckpt, self._written_at = resumed, runner.iter
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                _note_exchanges(hook)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Save the best one; write the checkpoint of this step again, with what was measured."""
        before, self._written_at = self._written_at, None
        super().after_val_epoch(runner, metrics)
        if self._written_at is None:
            self._written_at = before
            if before == runner.iter:
                step = runner.epoch if self.by_epoch else runner.iter
                meta = dict(epoch=runner.epoch, iter=runner.iter)
                self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        with self._removals_last(runner):
            for name, identity in self._interim.items():
                path = os.path.join(self.out_dir, name)
                if identity is not None and _identity(path) == identity:
                    self.file_backend.remove(path)
            self._interim = {}
            runner.message_hub.update_info(_INTERIM, [])
            runner.saved_in = ''
            try:
                super()._save_checkpoint_with_step(runner, step, meta)
            except OSError:
                if not runner.saved_in:
                    raise  # the checkpoint itself; what is left is the name of it
            if runner.saved_in and runner.saved_in != self.out_dir:  # which has no room
                self.last_ckpt = os.path.join(runner.saved_in, os.path.basename(self.last_ckpt))
                _name_last(runner, self.last_ckpt)
            self._written_at = meta['iter']

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._removals_last(runner):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removals_last(self, runner: Any) -> Iterator[None]:
        backend = self.file_backend
        if isinstance(backend, _RemovesLater):  # the best one's saving saves the last one too
            yield
            return
        later = _RemovesLater(backend, self.out_dir, runner.message_hub)
        self.file_backend = later
        try:
            yield
        finally:
            self.file_backend = backend
        later.finish()


class _RemovesLater:
    """A file backend that notes removals, for a resumed run too, and carries them out at the end."""

    def __init__(self, backend: Any, folder: str, hub: Any) -> None:
        self._backend = backend
        self._folder = folder
        self._hub = hub
        self._doomed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._doomed.append(path)
        files = [(os.path.basename(p), _identity(p)) for p in self._doomed if self._holds(p)]
        self._hub.update_info(_DOOMED, [[name, found] for name, found in files if found])

    def finish(self) -> None:
        for path in self._doomed:
            with suppress(OSError):  # gone already, or the disk can only be read
                self._backend.remove(path)
        self._hub.update_info(_DOOMED, [])

    def _holds(self, path: str) -> bool:
        return os.path.dirname(os.path.abspath(path)) == os.path.abspath(self._folder)


def save_now(runner: Any, reason: str, validating: bool = False) -> str:
    """Write a checkpoint of the present step, because the run has to stop.

    To be called by all processes, from a hook's ``after_train_iter``, where the step is complete, or
    from its ``after_val_iter``; the hook's priority is below that of checkpoints, ``VERY_LOW``.

    The file, ``iter_N.pth`` for N complete iterations, is what ``--resume`` goes on from, in the
    middle of an epoch too. No other file is removed for it, and the first regular checkpoint of a
    :class:`SafeCheckpointHook` afterwards removes it.

    Args:
        runner: Of any kind; only a :class:`~paca_mm.engine.runner.SafeRunner` goes on in mid-epoch.
        reason: Why, for the log.
        validating: Called during a validation, whose training step is complete already: the resumed
            run validates anew.

    Returns:
        The path; of the regular checkpoint where one of this very step stands.
    """
    hook: Any = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    done = runner.iter if validating else runner.iter + 1
    safe = isinstance(hook, SafeCheckpointHook)
    if safe and hook._written_at == done:
        return str(hook.last_ckpt)
    runner.logger.info(f'Saving checkpoint at {done} iterations: {reason}')
    folder = (hook and hook.out_dir) or runner.work_dir
    name = f'iter_{done}.pth'
    if safe:
        runner.message_hub.update_info(_INTERIM, [*hook._interim, name])
    with _own_weights(runner, validating):
        runner.save_checkpoint(
            folder,
            name,
            save_param_scheduler=runner.param_schedulers is not None,
            meta=dict(epoch=runner.epoch, iter=done),
            by_epoch=False,
            backend_args=hook and hook.backend_args,
        )
    path = os.path.join(getattr(runner, 'saved_in', '') or folder, name)
    if safe:
        hook._interim[name] = _identity(path)
    _name_last(runner, path)
    return path


def _name_last(runner: Any, path: str) -> None:
    """Note which checkpoint is the last; it is found without, too."""
    if is_main_process():
        with (
            suppress(CannotWrite),
            replacing(os.path.join(runner.work_dir, 'last_checkpoint')) as file,
        ):
            file.write_text(path)


@contextmanager
def _own_weights(runner: Any, validating: bool) -> Iterator[None]:
    """The model with the weights that it trains: while it is validated, it may have averaged ones."""
    averaging = [h for h in runner.hooks if isinstance(h, EMAHook)]
    exchanged = [h for h in averaging if getattr(h, 'exchanged', validating)]
    for hook in exchanged:
        hook._swap_ema_parameters()
    try:
        yield
    finally:
        for hook in exchanged:
            hook._swap_ema_parameters()


def _note_exchanges(hook: Any) -> None:
    """Let a hook know whether the model has its averages; mmpretrain's evaluates both in turn."""
    exchange = hook._swap_ema_parameters
    hook.exchanged = False

    def noted() -> None:
        exchange()
        hook.exchanged = not hook.exchanged

    hook._swap_ema_parameters = noted


def _identity(path: str) -> list[int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_ctime_ns]  # a copy keeps mtime, not ctime
