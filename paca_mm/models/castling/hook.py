"""Letting the softmax branch of Castling's attention fade out while a model trains."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from paca_mm.errors import UserError
from paca_mm.registry import HOOKS

from .attention import CastlingAttention, castling_attentions

BY = ('threshold', 'factor')
SCHEDULES = ('linear', 'cosine')


@HOOKS.register_module()
class CastlingHook(Hook):
    """Fades the softmax branch of every ``CastlingAttention`` out, and removes it.

    Schedule not published: the authors write that the branch vanishes while training goes on, and
    release no code of it. This one is ours. At its end the branch is exactly zero, which is checked,
    and is removed: the rest of the run trains, and the checkpoints hold, the model of inference.

    What the branch is depends on the number of iterations that are done and on nothing else, so a
    resumed run goes on as if it had not been interrupted. Each state dict carries what became of the
    branch (see :class:`CastlingAttention`): a checkpoint is evaluated as it was trained, with this
    hook in the config or without.

    Args:
        by: ``'threshold'`` raises the threshold from its beginning to 1, above which there is no
            softmax weight; ``'factor'`` lowers what the branch is multiplied by from 1 to 0.
        schedule: ``'linear'`` or ``'cosine'``, a half wave from the beginning to the end.
        begin: Where the branch begins to fade. An integer counts epochs (iterations where ``by_epoch``
            is False); a float, from 0.0 to 1.0, is a part of the run.
        end: Where it is gone, likewise.
        by_epoch: What integers count. Between two epochs too the branch changes with every iteration.

    Raises:
        UserError: An argument is not one of the above; when training starts, the model has no such
            branch, or the schedule does not end within the run.
    """

    def __init__(
        self,
        by: str = 'threshold',
        schedule: str = 'cosine',
        begin: int | float = 0.0,
        end: int | float = 0.8,
        by_epoch: bool = True,
    ) -> None:
        for name, value, known in (('by', by, BY), ('schedule', schedule, SCHEDULES)):
            if value not in known:
                raise UserError(
                    f'CastlingHook: {name}={value!r} is unknown; choose '
                    f'{" or ".join(map(repr, known))}.'
                )
        for name, position in (('begin', begin), ('end', end)):
            if isinstance(position, float) and not 0 <= position <= 1:
                unit = 'epochs' if by_epoch else 'iterations'
                raise UserError(
                    f'CastlingHook: {name}={position} is a float, and so a part of the run, from 0.0 '
                    f'to 1.0; for {unit} write {name}={round(position)}.'
                )
            if position < 0:
                raise UserError(f'CastlingHook: {name}={position} must not be below 0.')
        self.by = by
        self.schedule = schedule
        self.begin = begin
        self.end = end
        self.by_epoch = by_epoch
        self._attentions: list[CastlingAttention] = []
        self._span = (0, 1)

    def before_train(self, runner: Any) -> None:
        """Find the branches, and bring them to where the run is."""
        found = castling_attentions(runner.model)
        self._attentions = [attention for attention in found if attention.built_with_branch]
        if not self._attentions:
            raise UserError(
                'CastlingHook has nothing to fade out: '
                + (
                    f'none of the {len(found)} CastlingAttentions of the model was built with '
                    'softmax_branch=True.\n  to fix it: softmax_branch=True in the model'
                    if found
                    else f'the model ({type(runner.model).__name__}) has no CastlingAttention.\n'
                    '  to fix it: a model that has (paca_mm.CastlingViT say)'
                )
                + ', or no CastlingHook in custom_hooks.'
            )
        self._span = self._iterations(runner)
        self._bring_to(runner, runner.iter)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
        """Bring the branches to the next iteration, before anybody saves or validates the model."""
        self._bring_to(runner, runner.iter + 1)

    def _iterations(self, runner: Any) -> tuple[int, int]:
        """First iteration of the schedule, and that by which it is over.

        Raises:
            UserError: They are not in this order, or not within the run.
        """
        begin, end = (self._iteration(runner, position) for position in (self.begin, self.end))
        if begin >= end:
            raise UserError(
                f'CastlingHook: begin={self.begin} (iteration {begin}) must be before '
                f'end={self.end} (iteration {end}).'
            )
        if end > runner.max_iters:
            raise UserError(
                f'CastlingHook: the schedule ends at end={self.end} (iteration {end}), but the run '
                f'has {runner.max_epochs} epochs and {runner.max_iters} iterations, so the softmax '
                'branch would never be gone.\n  to fix it: an earlier end, a part of the run '
                '(end=0.8), or a longer run.'
            )
        return begin, end

    def _iteration(self, runner: Any, position: int | float) -> int:
        if isinstance(position, float):
            return round(position * runner.max_iters)
        if not self.by_epoch:
            return position
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError(
                f'CastlingHook: {position} counts epochs, but this run counts iterations '
                '(IterBasedTrainLoop).\n  to fix it: by_epoch=False, or parts of the run, such as '
                'begin=0.0, end=0.8.'
            )
        return position * len(runner.train_dataloader)

    def _bring_to(self, runner: Any, done: int) -> None:
        """Give the branches what they are after so many iterations."""
        begin, end = self._span
        if done < end:
            faded = self._faded(max(done - begin, 0) / (end - begin))
            for attention in self._attentions:
                attention.softmax_branch = True
                self._fade(attention, faded)
            value = getattr(attention, 'threshold' if self.by == 'threshold' else 'branch_factor')
            runner.message_hub.update_scalar(f'train/branch_{self.by}', value)
            return
        if not any(attention.softmax_branch for attention in self._attentions):
            return
        for attention in self._attentions:
            self._fade(attention, 1.0)
            assert attention.branch_is_silent()
            attention.remove_softmax_branch()
        runner.logger.info(
            f'CastlingHook: after {done} iterations the softmax branches of '
            f'{len(self._attentions)} attentions are exactly zero, and were removed.'
        )

    def _faded(self, part: float) -> float:
        """How much of the way is done after a part of the schedule; both from 0 to 1."""
        return part if self.schedule == 'linear' else (1 - math.cos(math.pi * part)) / 2

    def _fade(self, attention: CastlingAttention, faded: float) -> None:
        start = attention.built_threshold
        if self.by == 'threshold':
            attention.threshold = 1.0 if faded == 1 else start + (1 - start) * faded
            attention.branch_factor = 1.0
        else:
            attention.threshold = start
            attention.branch_factor = 1 - faded
