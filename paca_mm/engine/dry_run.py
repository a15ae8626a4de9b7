"""Everything that a training builds and calls, once, before its first iteration.

mmengine builds what is cheap behind what is slow, hands the arguments of a checkpoint on at the first
save, and runs the pipeline, the head and the metric of the validation when an epoch is trained. What is
wrong there costs the work up to it. So all of it has its turn at the beginning: what is built is
what the run goes on with, and what is called leaves nothing behind.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from paca_mm.errors import UserError, some_of

from .arguments import hook_parts, refusal
from .seeds import numbers_kept
from .signatures import Takes, takes


def dry_run(runner: Any) -> None:
    """Let everything of a training have its turn: what is cheap now, the validation behind the loading.

    Args:
        runner: A Runner that is about to train.

    Raises:
        UserError: See :func:`build_first`.
    """
    build_first(runner)
    runner.register_hook(_DryValidationHook())


class _DryValidationHook(Hook):
    """Takes one image through the validation, when the loops are built and the weights are loaded."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Any) -> None:
        validate_once(runner)


def build_first(runner: Any) -> None:
    """Check a runner's lengths and build what is cheap, before the data is read.

    The runner goes on with what was built: it takes a part that is there as it is.

    Args:
        runner: A Runner that is about to train.

    Raises:
        UserError: A length is none, or a checkpoint would be saved with unknown arguments.
    """
    _check_lengths(runner._train_loop)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            _check_saving(runner, hook)
    if not isinstance(
        runner, Runner
    ):  # a strategy builds the optimizer, around the model in pieces
        return
    if isinstance(runner.optim_wrapper, Mapping):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    _check_clipping(runner.optim_wrapper)
    if isinstance(runner._val_evaluator, (Mapping, list)):
        runner._val_evaluator = runner.build_evaluator(runner._val_evaluator)
        _check_best(runner)


def validate_once(runner: Any) -> None:
    """Take one image through the validation: its pipeline, the model and the metrics' processing.

    Random numbers, the model's mode and the metrics are afterwards what they were.

    Args:
        runner: A Runner whose loops are built and whose weights are loaded.
    """
    loop = runner.val_loop
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    if dataset is None or not hasattr(dataset, '__getitem__') or not len(dataset):
        return
    model = runner.model
    training = {module: module.training for module in model.modules()}
    with numbers_kept(), torch.no_grad():
        batch = loop.dataloader.collate_fn([dataset[0]])
        try:
            model.eval()
            outputs = model.val_step(batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        if type(loop.evaluator) is Evaluator:
            _process_once(loop.evaluator, batch, outputs)


def _process_once(evaluator: Evaluator, batch: Any, outputs: Any) -> None:
    """Show a prediction to the metrics, which keep what they make of it in a list; and take it out."""
    if not all(isinstance(getattr(metric, 'results', None), list) for metric in evaluator.metrics):
        return
    kept = [len(metric.results) for metric in evaluator.metrics]
    evaluator.process(data_samples=outputs, data_batch=batch)
    for metric, count in zip(evaluator.metrics, kept, strict=True):
        del metric.results[count:]


def _check_lengths(loop: Any) -> None:
    """A training and its intervals are one iteration long at least."""
    if not isinstance(loop, Mapping):
        return
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        value = loop.get(name, 1)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 1:
            never = ' (to leave the validation out: val_cfg, val_dataloader and val_evaluator None)'
            raise UserError(
                f'train_cfg.{name}={value!r}: it must be a number of 1 or more, or nothing is trained.\n'
                f'  to fix it: train_cfg.{name}=1 or more{never if name == "val_interval" else ""}.'
            )


def _check_saving(runner: Any, hook: CheckpointHook) -> None:
    """What the hook hands on to ``save_checkpoint`` is what that takes."""
    saves = [
        vars(cls)['save_checkpoint']
        for cls in type(runner).__mro__
        if 'save_checkpoint' in vars(cls)
    ]
    if any(save.__module__.partition('.')[0] not in ('mmengine', 'paca_mm') for save in saves):
        return  # it may take what it likes
    given_already = takes(inspect.unwrap(saves[-1])).names
    more = {name for save in saves for name in takes(inspect.unwrap(save)).names} - {*given_already}
    for name in hook.args:
        if name not in more:
            known = Takes((*takes(CheckpointHook).names, *sorted(more)), (), False)
            at = [part.place for part in hook_parts(runner.cfg) if name in part.node]
            raise UserError(refusal(at[0] if at else '', type(hook), name, known))


def _check_clipping(optim_wrapper: Any) -> None:
    """What gradients are clipped with at the first step is what torch takes."""
    given, function = (getattr(optim_wrapper, n, None) for n in ('clip_grad_kwargs', 'clip_func'))
    if not given or function is None:
        return
    taken = takes(inspect.unwrap(function))
    if refused := taken.refused(given):
        place = 'optim_wrapper.clip_grad'
        raise UserError(refusal(place, function, refused[0], taken))
    lacking = [name for name in taken.needed if name != 'parameters' and name not in given]
    if lacking:
        raise UserError(
            f'optim_wrapper.clip_grad needs {lacking[0]}.\n'
            f'  to fix it: optim_wrapper.clip_grad.{lacking[0]}=...'
        )


def _check_best(runner: Any) -> None:
    """A metric that the best checkpoint is chosen by can be one of the evaluator's."""
    evaluator = runner._val_evaluator
    prefixes = [getattr(metric, 'prefix', None) for metric in getattr(evaluator, 'metrics', [])]
    if type(evaluator) is not Evaluator or not all(prefixes):
        return
    for hook in runner.hooks:
        for name in getattr(hook, 'save_best', None) or ():
            if name != 'auto' and not any(name.startswith(f'{prefix}/') for prefix in prefixes):
                raise UserError(
                    f'save_best={name!r}: the metrics of val_evaluator are called '
                    f'{some_of(f"{prefix}/..." for prefix in prefixes)}.\n'
                    "  to fix it: save_best='auto', or the complete name of a metric, as a "
                    'validation prints it.'
                )
