"""Resumed runs go on where they were: behind the last step, with the validation that was due."""

from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from paca_mm.checkpoint.load import unwrapped

from .loading import with_pipeline
from .seeds import SeededBatches

#: In the message hub: the iteration that the last validation was of.
VALIDATED = 'last_validated'

#: What a checkpoint tells of the data's loading, and how it is called in a message.
_SETTINGS = dict(
    batch_size='batch size', processes='processes', batches='batches an epoch', workers='workers'
)


class Place:
    """Where a training is in its data: what a checkpoint tells of it, and how a run goes on there.

    Args:
        runner: Its train loop is built.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._began = 0  # the iteration in which the present pass over the data began
        self._skipped = 0  # batches that the next epoch leaves out
        loop = runner.train_loop
        if batches := self._batches():
            batches.iteration = lambda: loop.iter

    def record(self, epoch: int, iteration: int) -> dict[str, int]:
        """What a checkpoint keeps beside its counts of epochs and iterations."""
        loop = self._runner.train_loop
        batches = self._batches()
        return dict(
            done=iteration - self._began if epoch == loop.epoch else 0,
            batch_size=batches.size if batches else 0,
            processes=get_world_size(),
            batches=len(loop.dataloader),
            workers=loop.dataloader.num_workers,
        )

    def go_on(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on behind a checkpoint's last step, with the validation that was due.

        To be called where the counts of the train loop are restored, before it runs.
        """
        record = checkpoint['meta'].get('data')  # None: another runner wrote it
        loop, batches = self._runner.train_loop, self._batches()
        iterations = isinstance(loop, IterBasedTrainLoop)
        done = loop.iter if iterations else 0
        if record is not None:
            done = record['done']
            self._tell_changes(record)
            if batches and record['batch_size']:
                samples = done * record['batch_size'] * record['processes']
                done = samples // (batches.size * get_world_size())
        elif not iterations and loop.iter != loop.epoch * len(loop.dataloader):
            self._warn(
                f'the checkpoint does not tell how far it was in its epoch: epoch {loop.epoch + 1} '
                'begins anew, and the count of iterations is not a multiple of its length'
            )
        if done and batches is None:
            self._warn(
                'these data have no numbers (a stream, or no batches), so what comes next is not '
                'what an uninterrupted run would see'
            )
        else:
            self._began = loop.iter - done  # a validation that is due writes a checkpoint already
            if not iterations:
                self._skipped = done
            elif done:
                self._skip_iterations(batches, done)
        for dataset in with_pipeline(loop.dataloader.dataset):
            for transform in getattr(dataset.pipeline, 'transforms', ()):
                if hasattr(transform, 'results_cache'):
                    self._warn(
                        f'{type(transform).__name__} keeps images of earlier batches, and begins '
                        'without: the first images are not those of an uninterrupted run'
                    )
        if self._validation_is_due():
            hub = self._runner.message_hub
            for name in ('epoch', 'iter'):  # which mmengine sets with the next step
                if name in (then := checkpoint['message_hub']['runtime_info']):
                    hub.update_info(name, then[name])
            self._runner.logger.info('Validating first, which the interrupted run did not.')
            self._runner.val_loop.run()

    def enter_epoch(self) -> None:
        """Leave out what is done of the epoch that begins."""
        loop = self._runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            return
        skipped, self._skipped = self._skipped, 0
        self._began = loop.iter - skipped
        if skipped:
            self._batches().begin_behind(skipped, self._began)  # type: ignore[union-attr]
            run_iter = loop.run_iter
            loop.run_iter = lambda idx, data_batch: run_iter(idx + skipped, data_batch)

    def leave_epoch(self) -> None:
        """The next one is complete again."""
        loop = self._runner.train_loop
        if not isinstance(loop, IterBasedTrainLoop):
            vars(loop).pop('run_iter', None)
            self._began = loop.iter

    def _batches(self) -> SeededBatches | None:
        batches = getattr(self._runner.train_loop.dataloader, 'batch_sampler', None)
        return batches if isinstance(batches, SeededBatches) else None

    def _warn(self, text: str) -> None:
        self._runner.logger.warning(f'resuming: {text}.')

    def _tell_changes(self, record: Mapping[str, int]) -> None:
        """One line on what differs from the run that wrote the checkpoint, and what that means."""
        loop = self._runner.train_loop
        now = self.record(loop.epoch, loop.iter)
        changed = [name for name in _SETTINGS if record[name] != now[name]]
        if not changed:
            return
        together = [r['batch_size'] * r['processes'] for r in (record, now)]
        if changed == ['workers']:
            effect = 'nothing else changes, the numbers do not depend on them'
        elif changed[0] != 'batches' and together[0] == together[1]:
            effect = (
                'an iteration has the same images, augmented alike, from the samplers of mmengine; '
                'sums are rounded otherwise, and what a model draws is another'
            )
        else:
            effect = (
                'weights, optimizer and counts are the saved ones; the batches from here on are '
                f'others, and what goes by iterations goes on from iteration {loop.iter}'
            )
        names = ', '.join(f'{_SETTINGS[n]} {record[n]} -> {now[n]}' for n in changed)
        self._warn(f'{names}: {effect}')

    def _skip_iterations(self, batches: Any, count: int) -> None:
        """Leave out the first batches of an iteration loop, in place of the loop's own way.

        It loads all of them again (mmengine 0.10), or those of most samplers.
        """
        loop = self._runner.train_loop
        loader = loop.dataloader
        passes = 0

        def next_epoch(number: int) -> None:
            nonlocal passes
            passes = number
            sampler = loader.sampler if hasattr(loader.sampler, 'set_epoch') else batches.sampler
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(number)

        batches.begin_behind(count, self._began, next_epoch)
        iterator = type(loop.dataloader_iterator)(loader)
        iterator._epoch = passes
        if hasattr(iterator, 'skip_iter'):
            iterator.skip_iter = lambda _: None
        else:
            iterator = chain(repeat(None, loop.iter), iterator)
        loop.dataloader_iterator = iterator

    def _validation_is_due(self) -> bool:
        """Whether the run that was interrupted would have validated next."""
        runner, loop = self._runner, self._runner.train_loop
        if runner.val_loop is None or self._skipped:
            return False
        if isinstance(loop, IterBasedTrainLoop):
            at, last = loop.iter, loop.max_iters
        elif isinstance(loop, EpochBasedTrainLoop):
            at, last = loop.epoch, loop.max_epochs
        else:
            return False
        loop._decide_current_val_interval()
        planned = at >= max(loop.val_begin, 1) and (at % loop.val_interval == 0 or at == last)
        return planned and runner.message_hub.runtime_info.get(VALIDATED) != loop.iter


def keep_gradients(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Put the sums of an unfinished accumulation (``accumulative_counts``) into a checkpoint.

    Of one process: each of several has sums of its own, and mmengine warns where a run is resumed.
    """
    unfinished = not getattr(runner.optim_wrapper, 'should_update', lambda: True)()
    if unfinished and 'optimizer' in checkpoint and get_world_size() == 1:
        checkpoint['gradients'] = {
            name: weight.grad.cpu()
            for name, weight in unwrapped(runner.model).named_parameters()
            if weight.grad is not None
        }


def restore_gradients(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """Go on with the sums of an unfinished accumulation."""
    kept = checkpoint.get('gradients')
    if not kept or get_world_size() > 1:
        return
    for name, weight in unwrapped(runner.model).named_parameters():
        if name in kept:
            weight.grad = kept[name].to(weight)
    runner.logger.info('The gradients summed before are taken over: none of an iteration is lost.')
