"""A training whose numbers stay finite: steps with a NaN or an infinity in them are left out."""

import math
import os
from collections.abc import MutableMapping
from operator import is_
from typing import Any, NoReturn

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.finite import not_finite
from paca_mm.checkpoint.load import unwrapped
from paca_mm.errors import UserError, did_you_mean, some_of
from paca_mm.registry import HOOKS

from .first_fault import Beginning, first_fault
from .waiting_step import WaitingStep

#: What may become of a step that is not finite.
POLICIES = ('skip', 'stop', 'rollback')


@HOOKS.register_module()
class FiniteHook(Hook):
    """Looks at the loss and the gradient of every step, and leaves out those that are not finite.

    >>> default_hooks = dict(finite=dict(type='paca_mm.FiniteHook'))

    A NaN or an infinity in one step is in all weights behind it. With this hook the optimizer's step
    waits until the loss and the norm of the gradient are known, in all processes. If one of them is
    not finite, then weights, optimizer, loss scale, averaged weights (EMA) and buffers (the statistics
    of BatchNorm) are after the step what they were before it. With gradient accumulation, all batches
    of the step are left out. The iteration counts all the same, and the learning rate follows its
    schedule.

    The log names the iteration, the files of the batch, and what was the first to go wrong in it:
    the batch is run again for that, and each module is watched.

    On a GPU the host waits once in a step, as it does without the hook: mmengine reads every loss
    behind the step, and the hook reads all of them at once before it.

    Mixed precision (``AmpOptimWrapper``) overflows now and then, and its loss scaler leaves such steps
    out by itself: they are no fault, unless there is no end to them. A loss that is not finite is.

    Weights that are not finite are not saved: the training stops, and the checkpoints stay.

    Args:
        policy: What becomes of a step that is not finite: ``'skip'`` leaves it out; ``'stop'`` ends
            the training; ``'rollback'`` leaves it out and lets weights, optimizer and averages go back
            to the last checkpoint of this run, while data and schedule go on.
        max_in_a_row: How many such steps there may be in a row; with one more the training stops.
        max_in_all: How many there may be in all.

    Raises:
        UserError: (a ValueError) There is no such policy; or, in a training, that it stops.
    """

    priority = 'HIGHEST'  # all others see the weights behind the step, and no loss that is NaN

    def __init__(self, policy: str = 'skip', max_in_a_row: int = 5, max_in_all: int = 100) -> None:
        if policy not in POLICIES:
            raise UserError(
                f'FiniteHook has policy={policy!r}{did_you_mean(str(policy), POLICIES)}\n'
                f'  to fix it: one of {", ".join(POLICIES)}.'
            )
        self.policy = policy
        self.max_in_a_row = max_in_a_row
        self.max_in_all = max_in_all
        self._in_a_row = self._in_all = 0
        self._buffers = _Buffers(nn.Identity())
        self._begun: list[Beginning] = []  # the batches of the step that comes
        self._still: list[BaseAveragedModel] = []  # averages that an iteration leaves alone

    def before_train(self, runner: Any) -> None:
        """Let the optimizer's steps wait."""
        self._in_a_row = self._in_all = 0
        self._buffers, self._begun = _Buffers(runner.model), []
        if isinstance(runner.optim_wrapper, OptimWrapper):
            WaitingStep.install(runner.optim_wrapper)
        else:
            runner.logger.warning(
                f'FiniteHook cannot let the steps of {type(runner.optim_wrapper).__name__} wait: it '
                'stops the training behind the first loss that is not finite.'
            )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a forward pass changes."""
        self._let_averages_move()
        if not self._begun:
            self._buffers.keep()
        self._begun.append(Beginning.of(data_batch))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the step that waits, or leave it out."""
        wrapper = runner.optim_wrapper
        logged = outputs if isinstance(outputs, MutableMapping) else {}
        if not isinstance(wrapper, WaitingStep):
            self._begun = []
            if bad := _bad(logged):
                self._stop(runner, f'iteration {runner.iter + 1} ended with {_in_words(bad)}.')
            return
        verdict = wrapper.verdict
        seen = wrapper.losses[-1] if verdict is None and wrapper.losses else verdict
        if seen is None:  # nothing was trained
            self._begun = []
            return
        number = _read(seen, logged)
        bad = {} if math.isfinite(number) else _bad(logged)
        for name in bad:  # one NaN would be in the logged means of the next fifty steps
            del logged[name]
        if verdict is None:  # gradients accumulate: the step is yet to come
            return
        if math.isfinite(number):
            self._take(runner, wrapper)
        else:
            self._leave_out(runner, wrapper, bad)
        self._begun = []

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save no weights that are not finite.

        Raises:
            UserError: They are not.
        """
        bad = not_finite(checkpoint['state_dict'])
        for average in _averages(runner):
            bad += [f'{name} of the average' for name in not_finite(average.state_dict())]
        if bad:
            self._stop(
                runner,
                f'at iteration {runner.iter + 1} the weights themselves are NaN or infinite '
                f'({some_of(bad, 3)}), and are not saved.',
            )

    def after_train(self, runner: Any) -> None:
        """Nothing is held back any more."""
        self._let_averages_move()

    def _take(self, runner: Any, wrapper: WaitingStep) -> None:
        if failure := wrapper.failure():
            wrapper.leave_out()
            self._buffers.restore()
            self._stop(runner, f'{failure}.\n{self._account(runner, {})}')
        wrapper.take()
        self._in_a_row = 0

    def _leave_out(self, runner: Any, wrapper: WaitingStep, bad: dict[str, float]) -> None:
        self._in_a_row += 1
        self._in_all += 1
        wrapper.leave_out()
        self._buffers.restore()
        account = self._account(runner, bad)
        for average in _averages(runner):
            average.update_parameters = _leave_alone
            self._still.append(average)
        ill = bool(not_finite(dict(runner.model.named_parameters())))
        if self.policy == 'stop':
            self._stop(runner, f"a step is not finite, and policy='stop'.\n{account}")
        if self._in_a_row > self.max_in_a_row:
            self._stop(runner, f'{self._in_a_row} steps in a row are not finite.\n{account}')
        if self._in_all > self.max_in_all:
            self._stop(runner, f'{self._in_all} steps are not finite (max_in_all).\n{account}')
        if ill and self.policy == 'skip':  # so no step to come would be finite
            self._stop(runner, f'the weights themselves are NaN or infinite.\n{account}')
        done = 'it is left out'
        if self.policy == 'rollback':
            done += f', and the weights are again those of {self._roll_back(runner)}'
        runner.logger.warning(
            f'{account}\n  {done} ({self._in_a_row} in a row, at most {self.max_in_a_row}; '
            f'{self._in_all} in all, at most {self.max_in_all})'
        )

    def _account(self, runner: Any, bad: dict[str, float]) -> str:
        """What is known of the step: where it went wrong, in whatever process that was."""
        model = runner.model
        found = []
        if not is_model_wrapper(model) or isinstance(model, DistributedDataParallel):
            # All of them, in every process: the processes' norms may wait for each other.
            for beginning in self._begun:
                first = _first_fault(unwrapped(model), beginning, runner.optim_wrapper)
                found.append((first, beginning.files()))
            self._buffers.restore()
        lines = [f'iteration {runner.iter + 1}: the loss or the norm of the gradient is not finite']
        for rank, (its, losses) in enumerate(all_gather_object((found, bad))):
            where = f'process {rank}, ' if rank else ''
            if losses:
                lines.append(f'  {where}logged: {_in_words(losses)}')
            for first, files in its:
                if first:
                    lines.append(f'  {where}first to go wrong: {first}')
                if first or losses:
                    lines.append(f'  {where}images: {some_of(files, 8) or "not named"}')
        if len(lines) == 1:
            files = [file for _, names in found for file in names]
            lines.append('  run again, each number of the batch is finite')
            lines.append(f'  images: {some_of(files, 8) or "not named"}')
        return '\n'.join(lines)

    def _roll_back(self, runner: Any) -> str:
        """Go back to the last checkpoint of this run; returns its path."""
        path = _last_checkpoint(runner)
        if path is None:
            self._stop(runner, "policy='rollback', and there is no checkpoint yet to go back to.")
        checkpoint = read_checkpoint(path)
        resumes, runner._resume = runner._resume, True  # so that EMA takes its averages out of it
        try:
            runner.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        finally:
            runner._resume = resumes
        unwrapped(runner.model).load_state_dict(checkpoint['state_dict'])
        wrapper = runner.optim_wrapper
        settings = [
            {name: value for name, value in group.items() if name != 'params'}
            for group in wrapper.param_groups
        ]
        wrapper.load_state_dict(checkpoint['optimizer'])
        for group, own in zip(wrapper.param_groups, settings, strict=True):
            group.update(own)  # the learning rate is that of now
        return path

    def _stop(self, runner: Any, reason: str) -> NoReturn:
        rates = [rate for rates in runner.optim_wrapper.get_lr().values() for rate in rates]
        kept = any(name.endswith('.pth') for name in os.listdir(runner.work_dir))
        raise UserError(
            f'the training stops: {reason}\n'
            f'  to fix it: most often the learning rate is too high ({max(rates):g} now): a smaller '
            'optim_wrapper.optimizer.lr, a longer warm-up in param_scheduler, or '
            'optim_wrapper.clip_grad=dict(max_norm=1.0). Where it is always the same images, look at '
            'them and their annotations.'
            + ('\n  the last checkpoint is finite: --resume goes on from it.' if kept else '')
        )

    def _let_averages_move(self) -> None:
        while self._still:
            del self._still.pop().update_parameters


def _first_fault(model: nn.Module, beginning: Beginning, wrapper: OptimWrapper) -> str:
    try:
        return first_fault(model, beginning, wrapper)
    except Exception as e:  # the fault is reported all the same
        wrapper.zero_grad()
        return f'not found: the batch cannot be run again ({type(e).__name__}: {e})'


def _read(number: Tensor, logged: MutableMapping[str, Any]) -> float:
    """A number on the host, and with it, in one transfer, what is logged."""
    names = [
        name
        for name, value in logged.items()
        if isinstance(value, Tensor) and value.numel() == 1 and value.device == number.device
    ]
    numbers = [number, *(logged[name].detach() for name in names)]
    first, *others = torch.stack([n.float().reshape(()) for n in numbers]).cpu()
    logged.update(zip(names, others, strict=True))
    return float(first)


def _bad(logged: MutableMapping[str, Any]) -> dict[str, float]:
    """The losses that are not finite."""
    return {
        name: float(value)
        for name, value in logged.items()
        if 'loss' in name and isinstance(value, (Tensor, float)) and not math.isfinite(value)
    }


def _in_words(losses: dict[str, float]) -> str:
    return ', '.join(f'{name} = {value}' for name, value in losses.items())


def _last_checkpoint(runner: Any) -> str | None:
    """The last checkpoint of this run, if there is one."""
    path = runner.message_hub.runtime_info.get('last_ckpt')
    return path if path and os.path.isfile(path) else None


def _averages(runner: Any) -> list[BaseAveragedModel]:
    """The averaged models that hooks keep."""
    kept = (getattr(hook, 'ema_model', None) for hook in runner.hooks)
    return [average for average in kept if isinstance(average, BaseAveragedModel)]


def _leave_alone(model: nn.Module) -> None:
    """In the place of an average's ``update_parameters``."""


class _Buffers:
    """The buffers of a model, kept to be put back.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._all = [(m._buffers, name) for m in model.modules() for name in m._buffers]
        self._places: list[tuple[dict[str, Tensor | None], str]] = []
        self._tensors: list[Tensor] = []
        self._copies: list[Tensor] = []

    def keep(self) -> None:
        """Keep what they are now."""
        self._places = [place for place in self._all if place[0].get(place[1]) is not None]
        tensors: Any = [buffers[name] for buffers, name in self._places]
        if len(tensors) == len(self._tensors) and all(map(is_, tensors, self._tensors)):
            _copy(self._copies, tensors)
        else:
            self._copies = [tensor.detach().clone() for tensor in tensors]
        self._tensors = tensors

    def restore(self) -> None:
        """Put it back, also where a module has taken another tensor since."""
        _copy(self._tensors, self._copies)
        for (buffers, name), tensor in zip(self._places, self._tensors, strict=True):
            buffers[name] = tensor


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets and hasattr(torch, '_foreach_copy_'):  # one launch instead of hundreds
        torch._foreach_copy_(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
