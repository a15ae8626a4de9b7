"""Trainings of every kind, with faults that are drawn, to their ends."""

import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import candidates
from paca_mm.datasets.shapes import ensure_shapes

from .faults import KINDS
from .process import Process
from .training import Training, Variant, differences

IMAGES = 4, 3  # of training and of validation, with about three objects each


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
            for process in training.started:
                if process.lives(0):
                    process.send(signal.SIGKILL)
                    process.end()
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
