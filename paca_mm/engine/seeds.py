"""Random numbers that depend on where they are drawn, not on what was drawn before.

A generator that is seeded once is at a place that only a run without interruption knows: worker
processes have generators of their own, are ahead of the training, and start anew with a resumed run.
So every sample, every step and every validation here begins with generators that are seeded by the
run's seed and its number. A resumed run needs to know no more than the number of its next iteration,
and a run draws the same with two workers as with none.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, IterableDataset

from .distributed import has_accelerator


def seed_generators(purpose: str, seed: int, number: int, devices: bool = False) -> None:
    """Seed the generators of Python, NumPy and torch.

    Args:
        purpose: What for; the same numbers are never drawn for two purposes.
        seed: Of the run.
        number: Of the sample, the step, ..., counted from 0.
        devices: Also those of accelerators; samples are drawn on the CPU.
    """
    place = np.random.SeedSequence((zlib.crc32(purpose.encode()), seed, number))
    words = place.generate_state(4)
    whole = int.from_bytes(words.tobytes(), 'little')
    random.seed(whole)
    np.random.seed(words)
    if devices and has_accelerator():
        torch.manual_seed(whole % 2**63)
    else:
        torch.default_generator.manual_seed(whole % 2**63)


def random_state() -> tuple[Any, ...]:
    """The state of the generators of Python, NumPy and torch, and of this process's GPU."""
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpu


def set_random_state(state: tuple[Any, ...]) -> None:
    """Put the generators where :func:`random_state` found them."""
    of_python, of_numpy, of_torch, of_gpu = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if of_gpu is not None:
        torch.cuda.set_rng_state(of_gpu)


@contextmanager
def numbers_kept() -> Iterator[None]:
    """Work that may draw; the random numbers behind it are those that would have come."""
    now = random_state()
    try:
        yield
    finally:
        set_random_state(now)


class SeededBatch(list):
    """The indices of a batch; who goes through them finds the generators seeded for each.

    Data loaders do, where the samples are made: in a worker process, or in the main one.

    Args:
        indices: Of the samples.
        seed: Of the run.
        first: The number of the first sample, over all processes and iterations.
        step: From one sample's number to the next one's.
    """

    def __init__(self, indices: Iterable[Any], seed: int, first: int, step: int) -> None:
        super().__init__(indices)
        self._places = seed, first, step

    def __iter__(self) -> Iterator[Any]:
        seed, first, step = self._places
        for place, index in enumerate(super().__iter__()):
            seed_generators('sample', seed, first + place * step)
            yield index

    def __reduce__(self) -> tuple:  # a list's own would go through them on its way to a worker
        return SeededBatch, (self[:], *self._places)


class SeededBatches:
    """A batch sampler whose batches are :class:`SeededBatch`.

    Sample ``p`` of batch ``i`` of process ``r`` has the number ``(i * batch size + p) * processes + r``,
    so that one process draws for a batch of four what two draw for two each.

    Args:
        batches: The batch sampler.
        seed: Of the run.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches = batches
        self.seed = seed
        #: In a training, the number of the next batch where a pass over the data begins. Without it,
        #: every pass begins with 0: all validations draw the same.
        self.iteration: Callable[[], int] | None = None
        self._pass: Iterator[Any] | None = None
        self._early: list[Any] = []
        self._behind: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:  # hosts ask it for the sampler, the batch size, ...
        if name == 'batches':  # not there yet: while it is copied
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def size(self) -> int:
        """The number of samples in a batch that is full; more, where its sampler does not tell."""
        size = getattr(self.batches, 'batch_size', 2**16)
        return size if isinstance(size, int) else sum(size)

    def __iter__(self) -> Iterator[SeededBatch]:
        batches, self._behind = self._behind, None
        if batches is None:
            batches = self._pass = iter(self.batches)
            self._early = []
        size, rank, processes = self.size, get_rank(), get_world_size()
        for number in count(self.iteration() if self.iteration else 0):
            indices = self._next(batches, number)
            if indices is None:
                return
            if self.iteration is None:
                self._early.append(indices)
            yield SeededBatch(indices, self.seed, number * size * processes + rank, processes)

    def _next(self, batches: Iterator[Any], number: int) -> Any | None:
        seed_generators('order', self.seed, number)  # for samplers that draw
        return next(batches, None)

    def begin_behind(
        self, skipped: int, first: int = 0, next_epoch: Callable[[int], None] | None = None
    ) -> None:
        """Let the next pass leave out the first batches: nothing of them is loaded.

        Args:
            skipped: How many.
            first: The number of the first of them.
            next_epoch: Called with 1, 2, ... where all data are skipped and the next pass begins;
                without it, the next pass is empty then.
        """
        # mmengine 0.10 begins to load before it resumes: what was drawn there comes first.
        batches = chain(self._early, self._pass) if self._pass else iter(self.batches)
        epoch = 0
        for number in range(first, first + skipped):
            if self._next(batches, number) is None:
                if next_epoch is None:
                    break
                epoch += 1
                next_epoch(epoch)
                batches = self._pass = iter(self.batches)
                if self._next(batches, number) is None:
                    break  # no data at all
        self._early = []
        self._behind = batches


def seeding(loader: DataLoader, seed: int) -> DataLoader:
    """Let the samples of a data loader draw what their number says; returns the loader.

    Loaders without batches, and streams (``IterableDataset``), whose samples have no numbers, stay
    as they are.
    """
    batches = loader.batch_sampler
    streams = isinstance(loader.dataset, IterableDataset)
    if batches is not None and not streams and not isinstance(batches, SeededBatches):
        # torch forbids to exchange it, lest batch_size and sampler contradict it: they do not.
        object.__setattr__(loader, 'batch_sampler', SeededBatches(batches, seed))
    return loader
