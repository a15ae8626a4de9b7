"""Train, hurt, resume, compare: the table of docs/reliability.md is what this script has seen.

    make soak                       # ten minutes
    python dev/soak.py --minutes 2 --seed 7 --doc /tmp/t.md --json /tmp/t.json

A small classifier trains as ``tools/train.py`` does, on every kind of loop and data loader. Each
training is stopped, damaged and resumed several times, by faults that are drawn from a seed. At its end,
all its files are those of a training that nobody has disturbed, to the last bit, or it counts as lost.
The trainings are forked from this process, which has imported the libraries once.
"""

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import candidates
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.files import replacing
from paca_mm.paths import assets_root

ROOT = Path(__file__).resolve().parents[1]
BEGIN = '<!-- table: make soak -->'
END = '<!-- end of table -->'

#: Seconds in which a training has to be at its end, and its processes gone.
TOO_LONG, GONE = 600, 60

#: The most that the memory of a training may grow from its first third to its last.
GROWTH = 0.05

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch=dict(embed_dims=(8,) * 4, num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4),
        num_clusters=(3, 3, 3, 0),
        drop_path_rate=0.2,
        out_indices=(3,),
    ),
    head=dict(in_channels=8),
)
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={persistent})
val_dataloader = dict(batch_size=4, num_workers={workers}, persistent_workers={persistent})
test_dataloader = val_dataloader
randomness = dict(seed=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=24, T_max=14),
]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch={by_epoch}, interval={interval}, max_keep_ckpts=3,
                    save_best='accuracy/top1', rule='greater'),
)
custom_hooks = {hooks}
"""
EPOCHS = 'train_cfg = dict(_delete_=True, by_epoch=True, max_epochs={steps}, val_interval=1)\n'
ITERATIONS = """
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={steps}, val_interval=4)
log_processor = dict(by_epoch=False)
"""
IMAGES = 4, 3  # of training and of validation, with about three objects each

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


# ---- processes


CONTEXT = multiprocessing.get_context('fork')

#: Of all trainings: none has a process at the end.
SESSIONS: set[int] = set()


class Process:
    """``python tools/train.py WORDS``, in a session of its own.

    Args:
        words: The command line.
        log: The file for what it says.
        hurt: Called in the process before it begins.
    """

    def __init__(self, words: list[str], log: Path, hurt: Callable[[], None] | None = None) -> None:
        self.log, self.began = log, time.monotonic()
        log.write_text('')
        self._process = CONTEXT.Process(target=_become, args=(words, log, hurt))
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]
        SESSIONS.add(self.pid)

    @property
    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def says(self, pattern: str, seconds: float = TOO_LONG) -> bool:
        """Wait until it has said something; whether it has, before its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            alive = self._process.is_alive()
            if re.search(pattern, self.text):
                return True
            if not alive:
                return False
            time.sleep(0.05)
        return False

    def lives(self, seconds: float) -> bool:
        """Wait; whether it is still there then."""
        self._process.join(seconds)
        return self._process.is_alive()

    def send(self, signum: int, to_all: bool = False) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.pid, signum)

    def members(self) -> list[int]:
        """All that are left of its session."""
        return [
            pid for pid, session, state, _ in processes() if session == self.pid and state != 'Z'
        ]

    def memory(self) -> int:
        """Bytes that its session has in memory."""
        page = resource.getpagesize()
        return sum(pages * page for _, session, _, pages in processes() if session == self.pid)

    def end(self) -> tuple[int, str, list[str]]:
        """Wait for the end: exit code, what it said, and what is wrong with it."""
        wrong = []
        self._process.join(max(0, self.began + TOO_LONG - time.monotonic()))
        if self._process.is_alive():
            wrong.append(f'not at its end after {TOO_LONG} s')
            self.send(signal.SIGKILL)
            self._process.join()
        deadline = time.monotonic() + GONE
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            wrong.append(f'{len(left)} processes are left')
            self.send(signal.SIGKILL, to_all=True)
        text = self.text
        if 'Traceback (most recent' in text:
            wrong.append(f'a traceback: {text.strip().splitlines()[-1][:200]}')
        code: int = self._process.exitcode  # type: ignore[assignment]
        return code, text, wrong


def _become(words: list[str], log: Path, hurt: Callable[[], None] | None) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    if hurt is not None:
        hurt()
    sys.argv = [str(ROOT / 'tools/train.py'), *words]
    runpy.run_path(sys.argv[0], run_name='__main__')


def processes() -> Iterator[tuple[int, int, str, int]]:
    """All of this machine: id, session, state, pages in memory."""
    for entry in os.scandir('/proc'):
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = Path(entry.path, 'stat').read_text().rpartition(')')[2].split()
                yield int(entry.name), int(fields[3]), fields[0], int(fields[21])


# ---- trainings


@dataclass(frozen=True)
class Variant:
    """A kind of training: its loop, the workers of its data loaders, whether a step is ruined."""

    by_epoch: bool
    workers: int
    poisoned: bool = False

    @property
    def name(self) -> str:
        loop = 'epochs' if self.by_epoch else 'iterations'
        return f'{loop}_{self.workers}_workers' + ('_poisoned' if self.poisoned else '')

    def config(self, steps: int | None = None) -> str:
        steps = steps or (4 if self.by_epoch else 24)
        hooks = "[dict(type='mmengine.SoakPoison', at=(5, 13))]" if self.poisoned else '[]'
        return CONFIG.format(
            base=str(assets_root() / 'configs/cls/paca_shapes.py'),
            workers=self.workers,
            persistent=self.workers > 0 and self.by_epoch,
            by_epoch=self.by_epoch,
            interval=1 if self.by_epoch else 4,
            hooks=hooks,
        ) + (EPOCHS if self.by_epoch else ITERATIONS).format(steps=steps)


VARIANTS = [
    Variant(by_epoch=True, workers=2),
    Variant(by_epoch=False, workers=2),
    Variant(by_epoch=True, workers=0, poisoned=True),
    Variant(by_epoch=False, workers=0),
    Variant(by_epoch=False, workers=2, poisoned=True),
    Variant(by_epoch=True, workers=0),
]


def prepare() -> None:
    """Import what trainings need, and register a hook that puts NaN into the images of some steps."""
    parts = ('datasets', 'engine', 'evaluation', 'models', 'visualization')
    for module in ('paca_mm.engine.launch', 'paca_mm.models', *(f'mmpretrain.{p}' for p in parts)):
        importlib.import_module(module)
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    class SoakPoison(Hook):
        def __init__(self, at: tuple[int, ...]) -> None:
            self.at = at

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter in self.at:
                inputs = data_batch['inputs']
                if isinstance(inputs, torch.Tensor):
                    data_batch['inputs'] = inputs.float() * float('nan')
                else:
                    data_batch['inputs'] = [image.float() * float('nan') for image in inputs]

    HOOKS.register_module(module=SoakPoison, force=True)


@dataclass
class Training:
    """A training that faults are done to, and the same one that was left alone.

    Attributes:
        variant: What kind.
        work: Its folder.
        reference: That of the undisturbed one.
        seconds: How long that took.
        faults: Those that were done so far: kind, and what went wrong.
        done: Whether it has come to its end.
    """

    variant: Variant
    work: Path
    reference: Path
    seconds: float
    faults: list[tuple[str, list[str]]] = field(default_factory=list)
    done: bool = False

    def start(
        self, *words: str, hurt: Callable[[], None] | None = None, name: str = 'log.txt'
    ) -> Process:
        """Train from the newest checkpoint on."""
        config = self.reference.parent / f'{self.variant.name}.py'
        line = [str(config), '--work-dir', str(self.work), '--resume', *words]
        return Process(line, self.work.parent / name, hurt)

    def end(self, process: Process, *codes: int) -> tuple[int, str, list[str]]:
        """Wait for the end, which is one of these exit codes or the training's own."""
        code, text, wrong = process.end()
        self.done = code == 0
        if code not in (0, *codes):
            last = (text.strip().splitlines() or ['nothing'])[-1]
            wrong.append(f'exit code {code} where {codes} belongs: {last[:200]}')
        return code, text, wrong

    def checkpoints(self) -> list[Path]:
        """The newest first."""
        return candidates(self.work)[0]


def differences(work: Path, reference: Path) -> list[str]:
    """What a training has left otherwise than the undisturbed one."""
    found = []
    names, expected = ({p.name for p in folder.glob('*.pth')} for folder in (work, reference))
    if names != expected:
        found.append(
            f'files: {sorted(names - expected)} too much, {sorted(expected - names)} missing'
        )
    if unfinished := [p.name for p in work.iterdir() if p.name.endswith('.part')]:
        found.append(f'unfinished files: {unfinished}')
    for name in sorted(names & expected):
        ours, theirs = (read_checkpoint(folder / name) for folder in (work, reference))
        parts = ('state_dict', 'optimizer', 'param_schedulers')
        found += [f'{name}: {p} differs' for p in parts if not _same(ours.get(p), theirs.get(p))]
        scalars = [
            {
                key: buffer.data[0].tolist()
                for key, buffer in content['message_hub']['log_scalars'].items()
                if not key.endswith('time')
            }
            for content in (ours, theirs)
        ]
        if scalars[0] != scalars[1]:
            keys = [
                k for k in {**scalars[0], **scalars[1]} if scalars[0].get(k) != scalars[1].get(k)
            ]
            found.append(f'{name}: the curves of {sorted(keys)[:4]} differ')
    return found


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return ours == theirs


# ---- faults


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
    code, text, wrong = training.end(process, 128 + signum)
    if code == 0:
        return wrong or None  # it had come to its end before
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

    with filler.open('wb') as file, suppress(OSError):
        while True:
            file.write(bytes(2**14))
            file.flush()
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


# ---- the whole


class Soak:
    """All trainings of one call.

    Args:
        folder: Where everything is made; removed at the end.
        seed: Of what is drawn.
        variants: The kinds of trainings.
    """

    def __init__(self, folder: Path, seed: int, variants: list[Variant]) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.variants = variants
        self.injected: Counter[str] = Counter()
        self.lost: dict[str, list[str]] = {}
        self.trainings: list[dict[str, Any]] = []
        self._order: list[str] = []
        ensure_shapes(folder / 'data/shapes', num_train=IMAGES[0], num_val=IMAGES[1])
        self.references = {variant: self._reference(variant) for variant in variants}

    def _reference(self, variant: Variant) -> tuple[Path, float]:
        """A training that nobody disturbs, and how long it took."""
        (self.folder / f'{variant.name}.py').write_text(variant.config())
        work = self.folder / variant.name
        words = [str(self.folder / f'{variant.name}.py'), '--work-dir', str(work)]
        process = Process(words, self.folder / f'{variant.name}.txt')
        code, text, wrong = process.end()
        if code or wrong:
            raise SystemExit(f'an undisturbed training ended with {code}: {wrong}\n{text[-3000:]}')
        if variant.poisoned and 'nan' in text.lower() and not _is_finite(work):
            raise SystemExit(f'NaN in two steps has ruined the training\n{text[-3000:]}')
        return work, time.monotonic() - process.began

    def cycle(self, variant: Variant, faults: int, kinds: list[str] | None = None) -> Training:
        """One training with some faults, to its end."""
        reference, seconds = self.references[variant]
        with _own_disk(self.folder / f'run_{len(self.trainings)}', reference) as place:
            training = Training(variant, place / 'work', reference, seconds)
            for name in kinds or self._drawn():
                if training.done or len(training.faults) == faults:
                    break
                self._inject(training, name)
            while not training.done:
                code, text, wrong = training.end(training.start())
                if code or wrong:
                    training.faults.append(('final', [*wrong, text[-2000:]]))
                    break
            differing = differences(training.work, reference) if training.done else ['no end']
        self._count(training, differing)
        return training

    def _drawn(self) -> Iterator[str]:
        """Kinds of faults, each as often as the others; no more than two rounds of them."""
        for _ in range(2 * len(KINDS)):
            if not self._order:
                self._order = self.draw.sample([*KINDS], len(KINDS))
            yield self._order.pop()

    def _inject(self, training: Training, name: str) -> None:
        try:
            wrong = KINDS[name][2](training, self.draw)
        except Exception:  # what the script trips over is a fault that was not survived
            wrong = [traceback.format_exc()]
        if wrong is not None:
            training.faults.append((name, wrong))

    def _count(self, training: Training, differing: list[str]) -> None:
        for name, wrong in training.faults:
            self.injected[name] += 1
            if wrong or differing:
                self.lost.setdefault(name, []).extend(wrong or differing)
        if training.variant.poisoned:
            self.injected['poison'] += 2
            if differing:
                self.lost.setdefault('poison', []).extend(differing)
        record = dict(variant=training.variant.name, faults=training.faults, differences=differing)
        self.trainings.append(record)
        bad = [fault for _, wrong in training.faults for fault in wrong] + differing
        names = ', '.join(name for name, _ in training.faults)
        print(f'{training.variant.name}: {names}: {"; ".join(bad) or "as undisturbed"}', flush=True)

    def memory(self, seconds: float) -> tuple[float, float]:
        """The memory of a long training, in MB: in its first third behind the start, in its last."""
        variant = self.variants[0]
        config = self.folder / 'long.py'
        config.write_text(variant.config(steps=100000))
        words = [str(config), '--work-dir', str(self.folder / 'long')]
        process, sizes = Process(words, self.folder / 'long.txt'), []
        process.says(r'\(val\)')  # everything has been used once
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.lives(0.5):
            sizes.append(process.memory() / 1e6)
        process.send(signal.SIGTERM)
        _, text, wrong = process.end()
        if wrong or len(sizes) < 6:
            raise SystemExit(f'the long training: {wrong}\n{text[-2000:]}')
        third = len(sizes) // 3
        return max(sizes[:third]), max(sizes[-third:])


def _is_finite(work: Path) -> bool:
    weights = read_checkpoint(candidates(work)[0][0])['state_dict'].values()
    return all(value.isfinite().all() for value in weights)


@contextmanager
def _own_disk(place: Path, reference: Path) -> Iterator[Path]:
    """A folder on a small disk of its own, where this user may make one."""
    place.mkdir()
    size = sum(file.stat().st_size for file in reference.rglob('*')) * 3
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'soak', str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(['umount', '-l', str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


POISON = (
    'NaN in the images of a step',
    'the step is left out; the end is that of the undisturbed run with the same NaN',
)


def table(soak: Soak, minutes: float, memory: tuple[float, float] | None, left: int) -> str:
    """What happened, in Markdown."""
    rows = [
        '| fault | promise | injected | survived | lost |',
        '| :--- | :--- | ---: | ---: | ---: |',
    ]
    names = {name: entry[:2] for name, entry in KINDS.items()} | {'poison': POISON}
    total = lost_in_all = 0
    for name, (title, promise) in names.items():
        count = soak.injected[name]
        lost = sum(
            bool(wrong or record['differences'])
            for record in soak.trainings
            for kind_, wrong in record['faults']
            if kind_ == name
        )
        if name == 'poison':
            lost = 2 * sum(
                bool(r['differences']) for r in soak.trainings if r['variant'].endswith('_poisoned')
            )
        if count:
            rows.append(f'| {title} | {promise} | {count} | {count - lost} | {lost} |')
        total, lost_in_all = total + count, lost_in_all + lost
    rows.append(f'| **all** | | **{total}** | **{total - lost_in_all}** | **{lost_in_all}** |')
    same = sum(not record['differences'] for record in soak.trainings)
    rows += [
        '',
        f'{len(soak.trainings)} trainings of {len(soak.variants)} kinds (loops by epoch and by '
        f'iteration, data loaders without and with 2 workers), each resumed after every fault: '
        f'**{same}** ended with the files of the undisturbed one, bit for bit (weights, optimizer, '
        f'schedule, curves, best checkpoint). Processes that were left: **{left}**.',
    ]
    if memory:
        rows += [
            f'Memory of one long training and its workers: {memory[0]:.0f} MB in its first third, '
            f'{memory[1]:.0f} MB in its last.'
        ]
    rows += ['', f'`make soak`, {minutes:.0f} minutes, {_where()}.']
    return '\n'.join(rows)


def _where() -> str:
    import mmengine

    return (
        f'{time.strftime("%Y-%m-%d")}, Python {platform.python_version()}, torch {torch.__version__}, '
        f'mmengine {mmengine.__version__}, {platform.system()} {platform.machine()}'
    )


def write_table(page: Path, text: str) -> None:
    """Put the table between its markers."""
    before, begin, rest = page.read_text('utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f'{page} must have these two lines around its table:\n{BEGIN}\n{END}')
    with replacing(page) as part:
        part.write_text(f'{before}{BEGIN}\n{text}\n{END}{after}', 'utf-8')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument(
        '--seed', type=int, default=None, help='of the faults; default: another each time'
    )
    parser.add_argument('--faults', type=int, default=5, help='in one training')
    parser.add_argument('--doc', type=Path, default=ROOT / 'docs/reliability.md', help='the page')
    parser.add_argument('--json', type=Path, default=ROOT / 'benchmarks/results/soak.json')
    args = parser.parse_args(argv)
    seed = int.from_bytes(os.urandom(4), 'little') if args.seed is None else args.seed
    began = time.monotonic()
    end = began + 60 * args.minutes
    print(f'seed {seed}', flush=True)
    prepare()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix='soak_') as name:
        folder = Path(name)
        os.chdir(folder)
        try:
            soak = Soak(folder, seed, VARIANTS)
            share = min(60.0, 6 * args.minutes)  # a tenth of the time for the memory
            for variant in itertools.cycle(VARIANTS):
                longest = max(seconds for _, seconds in soak.references.values())
                if time.monotonic() + share + 3 * longest > end and soak.trainings:
                    break
                soak.cycle(variant, args.faults)
            memory = soak.memory(share)
        finally:
            os.chdir(here)
    left = [pid for pid, session, *_ in processes() if session in SESSIONS]
    text = table(soak, (time.monotonic() - began) / 60, memory, len(left))
    write_table(args.doc, text)
    with replacing(args.json) as part:
        part.write_text(
            json.dumps(
                dict(
                    seed=seed, where=_where(), trainings=soak.trainings, memory_mb=memory,
                    processes_left=len(left), injected=soak.injected,
                ), indent=1,
            )
        )  # fmt: skip
    print(text)
    grown = memory[1] > memory[0] * (1 + GROWTH)
    return 1 if soak.lost or left or grown else 0


if __name__ == '__main__':
    sys.exit(main())
