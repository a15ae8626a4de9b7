"""What is done to a training, and what shall become of it."""

import itertools
import os
import random
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paca_mm.checkpoint import read_checkpoint

from .process import Process
from .training import Training

Inject = Callable[['Training', random.Random], list[str] | None]
KINDS: dict[str, tuple[str, str, Inject]] = {}


def kind(name: str, promise: str) -> Callable[[Inject], Inject]:
    """Register a kind of fault: what is done, and what shall become of it.

    The function does it to a training, and returns what went wrong, or None where it cannot be done
    at that moment.
    """

    def register(inject: Inject) -> Inject:
        KINDS[inject.__name__] = name, promise, inject
        return inject

    return register


TRAINS = r'(Epoch|Iter)\(train\)'


def _while_it_trains(training: Training, process: Process, draw: random.Random) -> bool:
    """Wait for a random moment behind its first step; whether it has not come to its end before."""
    return process.says(TRAINS) and process.lives(draw.uniform(0, training.seconds / 4))


@kind('`kill -9` at a random moment', 'the next start goes on from the newest checkpoint')
def killed(training: Training, draw: random.Random) -> list[str]:
    process = training.start()
    if process.lives(draw.uniform(0, training.seconds / 2)):
        process.send(signal.SIGKILL)
    return training.end(process, -signal.SIGKILL)[2]


@kind('`kill -9` at an operation of a save', 'no file under its name is torn')
def killed_in_a_save(training: Training, draw: random.Random) -> list[str]:
    count, behind = draw.randint(1, 8), draw.random() < 0.5

    def hurt() -> None:
        left = itertools.count(1)

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **kwargs: Any) -> Any:
                named = [str(p) for p in (path, *args) if isinstance(p, (str, os.PathLike))]
                dies = any('.pth' in p or 'last_checkpoint' in p for p in named)
                dies = dies and next(left) == count
                if dies and not behind:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(path, *args, **kwargs)
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ('replace', 'remove', 'unlink'):
            setattr(os, name, deadly(getattr(os, name)))

    return training.end(training.start(hurt=hurt), -signal.SIGKILL)[2]


@kind('`kill -9` with half of a checkpoint written', 'the one before it stands')
def killed_in_a_write(training: Training, draw: random.Random) -> list[str]:
    count = draw.randint(1, 3)

    def hurt() -> None:
        from mmengine.fileio.backends.local_backend import LocalBackend

        left, put = itertools.count(1), LocalBackend.put

        def half(self: Any, obj: bytes, filepath: str) -> None:
            if next(left) == count:
                put(self, bytes(obj[: len(obj) // 2]), filepath)
                os.kill(os.getpid(), signal.SIGKILL)
            put(self, obj, filepath)

        LocalBackend.put = half

    return training.end(training.start(hurt=hurt), -signal.SIGKILL)[2]


@kind('`kill -9` in a validation', 'the resumed run validates, and `best` is right')
def killed_in_a_validation(training: Training, draw: random.Random) -> list[str]:
    count = draw.randint(1, 4)

    def hurt() -> None:
        from mmengine.runner import ValLoop

        left, run_iter = itertools.count(1), ValLoop.run_iter

        def deadly(self: Any, *args: Any) -> None:
            if next(left) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            run_iter(self, *args)

        ValLoop.run_iter = deadly

    return training.end(training.start(hurt=hurt), -signal.SIGKILL)[2]


def _told(training: Training, draw: random.Random, signum: int) -> list[str] | None:
    process = training.start()
    if _while_it_trains(training, process, draw):
        process.send(signum, to_all=draw.random() < 0.5)
    code, text, wrong = training.end(process, 128 + signum, -signum)
    if code == 0:
        return wrong or None  # it had come to its end before
    if code == -signum and 'done in' not in text:  # else it was told behind its end
        wrong.append(f'signal {signum} has ended it, and nobody listened')
    reached = _last_step(text)
    saved = read_checkpoint(training.checkpoints()[0])['meta']['iter']
    if saved < reached:
        wrong.append(f'told to stop in step {reached}, and saved {saved}')
    return wrong


def _last_step(text: str) -> int:
    """The iteration that a training has reached, by its log."""
    steps = [
        (int(epoch) - 1) * int(count) + int(i)
        for epoch, i, count in re.findall(
            r'Epoch\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/\s*(\d+)\]', text
        )
    ]
    steps += [int(i) for i in re.findall(r'Iter\(train\)\s+\[\s*(\d+)/', text)]
    return max(steps, default=0)


@kind('SIGTERM', 'the step that was reached is saved, exit code 143')
def terminated(training: Training, draw: random.Random) -> list[str] | None:
    return _told(training, draw, signal.SIGTERM)


@kind('SIGINT (Ctrl-C)', 'the step that was reached is saved, exit code 130')
def interrupted(training: Training, draw: random.Random) -> list[str] | None:
    return _told(training, draw, signal.SIGINT)


@kind('SIGUSR1 (slurm)', 'the step that was reached is saved, exit code 138')
def warned(training: Training, draw: random.Random) -> list[str] | None:
    return _told(training, draw, signal.SIGUSR1)


@kind('a worker of a data loader killed', 'the run ends, and leaves no process')
def worker_killed(training: Training, draw: random.Random) -> list[str] | None:
    if not training.variant.workers:
        return None
    process = training.start()
    workers = []
    if _while_it_trains(training, process, draw):
        workers = [pid for pid in process.members() if pid != process.pid]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
    _, _, wrong = training.end(process, 1, 2)
    return [fault for fault in wrong if 'traceback' not in fault] if workers else None


def _damaged(
    training: Training, draw: random.Random, damage: Callable[[bytearray], Any]
) -> list[str] | None:
    """Damage the newest checkpoint; the run goes on from the one before it, until it is killed."""
    whole = [file for file in training.checkpoints() if file.name[:4] in ('epoc', 'iter')]
    if len(whole) < 2:
        return None
    content = bytearray(whole[0].read_bytes())
    damage(content)
    whole[0].write_bytes(content)
    process = training.start()
    said = process.says(r'going on from \S+')
    if process.lives(draw.uniform(0, training.seconds / 2)):
        process.send(signal.SIGKILL)
    _, text, wrong = training.end(process, -signal.SIGKILL)
    taken = re.search(r'going on from (\S+)', text)
    if not said or not taken or Path(taken[1]).name == whole[0].name:
        wrong.append(f'{whole[0].name} was damaged, and the run went on from it or from nothing')
    elif f'passed over: {whole[0]}' not in text:
        wrong.append(f'{whole[0].name} was passed over without a line')
    if whole[0].is_file() and whole[0].read_bytes() == content:
        whole[0].unlink()  # as the user does whom the line has told
    return wrong


@kind('a page of the newest checkpoint zeroed', 'it is passed over with a line')
def page_zeroed(training: Training, draw: random.Random) -> list[str] | None:
    def damage(content: bytearray) -> None:
        while True:
            at = draw.randrange(len(content)) // 4096 * 4096
            if any(content[at : at + 512]):  # else there was nothing to lose
                content[at : at + 512] = bytes(len(content[at : at + 512]))
                return

    return _damaged(training, draw, damage)


@kind('the newest checkpoint cut off', 'it is passed over with a line')
def cut_off(training: Training, draw: random.Random) -> list[str] | None:
    return _damaged(
        training,
        draw,
        lambda content: content.__delitem__(slice(draw.randrange(len(content)), None)),
    )


@kind('`last_checkpoint` empty, not text, or naming nothing', 'the newest checkpoint is taken')
def last_is_odd(training: Training, draw: random.Random) -> list[str] | None:
    if not training.checkpoints():
        return None
    odd = [b'', b'\xff\xfe\x00', b'/nowhere/epoch_99.pth', b'a\nb\n']
    (training.work / 'last_checkpoint').write_bytes(draw.choice(odd))
    process = training.start()
    if process.lives(draw.uniform(0, training.seconds / 2)):
        process.send(signal.SIGKILL)
    return training.end(process, -signal.SIGKILL)[2]


@contextmanager
def _full_disk(work: Path) -> Iterator[Callable[[], None]]:
    """Fill the small disk that a folder is on; the call empties it again."""
    filler = work.parent / 'filler'

    def empty() -> None:
        filler.unlink(missing_ok=True)

    # Without a buffer, whose rest would be written once more at the end, in vain.
    with filler.open('wb', buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**14))
    try:
        yield empty
    finally:
        empty()


@kind('the disk full', 'one message with exit code 2, or waiting for room')
def disk_full(training: Training, draw: random.Random) -> list[str] | None:
    waits = draw.random() < 0.5
    if not os.path.ismount(training.work.parent):
        return _file_too_large(training)
    process = training.start('--wait-for-room', '2' if waits else '0')
    if not process.says(TRAINS):
        return training.end(process)[2]
    with _full_disk(training.work) as empty:
        if waits:
            process.says('waits for room', training.seconds)
            empty()
        code, text, wrong = training.end(process, *([] if waits else [2]))
    if code == 2 and 'cannot be written' not in text:
        wrong.append('no message about the room')
    return wrong


def _file_too_large(training: Training) -> list[str]:
    """Without a disk of its own: no file may be as large as a checkpoint."""

    def hurt() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))

    return training.end(training.start('--wait-for-room', '0', hurt=hurt), 2)[2]


@kind('a second run in the same folder', 'it is refused, and the first goes on')
def second_run(training: Training, draw: random.Random) -> list[str] | None:
    first = training.start()
    if not _while_it_trains(training, first, draw):
        return training.end(first)[2] or None
    code, text, wrong = training.start(name='second.txt').end()
    alive = first.lives(0)
    first.send(signal.SIGKILL)
    wrong += training.end(first, -signal.SIGKILL)[2]
    if alive and (code != 2 or 'another run' not in text):
        wrong.append(f'the second run ended with {code}')
    return wrong
