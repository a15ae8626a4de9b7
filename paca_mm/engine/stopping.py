"""Stop a training by a signal: end the step, save, leave with the customary exit code.

A signal only leaves a note; the hook looks at it where a step has ended. In a distributed run the
processes are signalled at different moments, and have to save the same step: each says in every step
whether it was told, by one number that travels while the next step is computed, and all of them read the
same answer there. Nobody waits for it.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from paca_mm.processes import follow_launcher
from paca_mm.registry import HOOKS

from .checkpoints import save_now

#: Signals within so many seconds are one: launchers and schedulers repeat each other's.
TOGETHER = 1.0
#: Seconds that an orphan has to reach the end of its step.
ALONE = 60.0
#: Minutes that a process waits for the one that saves.
SAVING = 30


class Stopped(SystemExit):
    """A run that was told to stop leaves; ``code`` is 128 and the number of the signal.

    Attributes:
        signal: The name of the signal, ``'SIGTERM'`` say.
        checkpoint: What was saved, which a resumed run goes on from.
    """

    def __init__(self, signum: int, checkpoint: Path) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum).name
        self.checkpoint = checkpoint


@HOOKS.register_module()
class StopHook(Hook):
    """Saves at the end of the step in which a signal comes, and leaves (:class:`Stopped`).

    A second signal leaves at once. A validation is left at its next batch; a resumed run validates.
    Our configs and ``paca-mm train`` have this hook as ``default_hooks.stop``; None there leaves it out.

    Args:
        signals: Their names. One that the system does not know, or that somebody else listens to, is
            left alone. slurm sends ``SIGUSR1`` where it is asked to (``--signal=USR1@120``).
    """

    priority = 'LOWEST'  # behind the hook that saves

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGINT', 'SIGUSR1')) -> None:
        self.signals = [getattr(signal, name) for name in signals if hasattr(signal, name)]
        self._listener = Listener()
        self._agreed = 0

    @property
    def told(self) -> bool:
        """Whether this process was told to stop."""
        return bool(self._listener.signal)

    def before_train(self, runner: Any) -> None:
        """Listen from now on."""
        follow_launcher()
        self._listener.listen(self.signals)
        self._agreement = Agreement()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Leave where a step has ended; behind the last of an epoch, the epoch has to end first."""
        self._agreed = self._agreed or self._agreement(self._listener.signal)
        epoch_ends = hasattr(runner.train_loop, 'run_epoch') and self.end_of_epoch(
            runner.train_dataloader, batch_idx
        )
        if self._agreed and not epoch_ends:
            self._leave(runner, self._agreed)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Leave by what this process was told: launchers tell all of them."""
        if signum := self._agreed or self._listener.signal:
            self._leave(runner, signum, validating=True)

    def after_train(self, runner: Any) -> None:
        """The run has ended by itself."""
        self._agreement.end()
        self.release()

    def release(self) -> None:
        """Listen no more; the signals do what they did before."""
        self._listener.stop()

    def _leave(self, runner: Any, signum: int, validating: bool = False) -> None:
        name = signal.Signals(signum).name
        checkpoint = Path(save_now(runner, name, validating))
        self._agreement.end(together=True)  # those that left first would end the one that saves
        runner.logger.warning(f'{name}: saved {checkpoint}, from which --resume goes on.')
        self.release()
        raise Stopped(signum, checkpoint)


@contextmanager
def released(hooks: Sequence[Hook]) -> Iterator[None]:
    """A training, behind which nobody listens to signals any more, however it ends."""
    try:
        yield
    finally:
        for hook in hooks:
            if isinstance(hook, StopHook):
                hook.release()


class Listener:
    """Notes the first signal; leaves at once with the second."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def listen(self, signals: Sequence[int]) -> None:
        """Begin; only the main thread of a process can."""
        self.signal, self._parent = 0, os.getppid()
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in signals:
            before = signal.getsignal(signum)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                self._before[signum] = before
                signal.signal(signum, self._note)

    def stop(self) -> None:
        """End."""
        while self._before:
            signum, before = self._before.popitem()
            signal.signal(signum, before)

    def _note(self, signum: int, frame: Any) -> None:
        name, now = signal.Signals(signum).name, time.monotonic()
        if not self.signal:
            self.signal, self._since = signum, now
            _write(f'\n{name}: the run saves at the end of this step, then stops.\n')
            if os.getppid() != self._parent:
                _leave_later(signum)
        elif name != 'SIGUSR1' and now - self._since > TOGETHER:
            _write(f'\n{name} again: stopped at once, nothing more is saved.\n')
            os._exit(128 + signum)


class Agreement:
    """Whether any process was told to stop, known to all of them in the same step."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # Numbers on the CPU, on a way of their own: no GPU is waited for.
        patience = timedelta(minutes=SAVING)
        self._group = dist.new_group(backend='gloo', timeout=patience) if several else None
        self._sent: tuple[torch.Tensor, Any] | None = None

    def __call__(self, told: int) -> int:
        """The greatest number that any process has said in the step before; by itself, this one's."""
        if self._group is None:
            return told
        answer = self._answer()
        if not answer:
            number = torch.tensor([told], dtype=torch.int32)
            work = dist.all_reduce(number, dist.ReduceOp.MAX, self._group, async_op=True)
            self._sent = number, work
        return answer

    def end(self, together: bool = False) -> None:
        """Ask no more; ``together``: wait until all processes have come here."""
        self._answer()
        if together and self._group is not None:
            dist.barrier(self._group)

    def _answer(self) -> int:
        if self._sent is None:
            return 0
        (number, work), self._sent = self._sent, None
        work.wait()
        return int(number)


def _write(text: str) -> None:
    os.write(2, text.encode())  # print() may be interrupted in itself


def _leave_later(signum: int) -> None:
    """The launcher is dead: nobody would end a process that waits for others which are dead, too."""
    timer = threading.Timer(ALONE, os._exit, (128 + signum,))
    timer.daemon = True
    timer.start()
