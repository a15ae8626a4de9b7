"""Hooks that configs name as ``paca_mm.<Hook>``."""

import os
import time
from collections.abc import Sequence
from typing import Any

import mmcv
import torch
from mmengine.hooks import Hook

from paca_mm import threads
from paca_mm.datasets.images import loader_of
from paca_mm.registry import HOOKS

from .drawing import Look, beside, lines, save
from .tasks import task_for
from .tasks.cls import Classification


@HOOKS.register_module()
class DrawHook(Hook):
    """Writes every tested image of a detector or a segmentor, ground truth beside prediction.

    Args:
        out_dir: Where they go, as ``<image>.png``; an image whose name is taken already goes with its
            folder's before it.
        score_thr: Least score of a detection that is drawn.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = out_dir
        self.score_thr = score_thr
        self._names: set[str] = set()

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw a batch, every image as its file is."""
        dataset = runner.test_dataloader.dataset
        task, look = task_for(runner.cfg), Look.of(dataset.metainfo)
        loader = loader_of(getattr(getattr(dataset, 'pipeline', None), 'transforms', ()))
        for sample in outputs:
            pixels = mmcv.imread(sample.img_path, channel_order='rgb', backend=loader)
            sample = sample.cpu()
            drawing = task.drawn(pixels, sample, look, self.score_thr)
            if (truth := task.drawn_truth(pixels, sample, look)) is not None:
                drawing = beside(truth, drawing)
            name = f'{self._name(sample.img_path)}.png'
            save(drawing, os.path.join(self.out_dir, name), '--show-dir')

    def _name(self, path: str) -> str:
        folder, file = os.path.split(path)
        name = os.path.splitext(file)[0]
        while name in self._names and folder.strip('/'):
            folder, parent = os.path.split(folder)
            name = f'{parent}_{name}'
        self._names.add(name)
        return name


@HOOKS.register_module()
class DrawClassesHook(Hook):
    """Writes every tested image of a classifier with its true class and the best predicted ones.

    Args:
        out_dir: Where they go, as ``<class folder>_<image>.png``.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw a batch, as the model saw it: with test-time augmentation, the first of its views."""
        look = Look.of(runner.visualizer.dataset_meta or {})
        images = data_batch['inputs']
        if isinstance(images, (list, tuple)) and not _is_image(images[0]):
            images = images[0]  # views, each of them a batch
        for image, sample in zip(images, outputs, strict=True):
            folder, file = os.path.split(sample.img_path)
            name = f'{os.path.basename(folder)}_{os.path.splitext(file)[0]}'
            pixels = image.flip(0).permute(1, 2, 0).cpu().numpy()  # BGR -> RGB
            truth = [
                look.name(label) for label in sample.get('gt_label', torch.tensor([])).tolist()
            ]
            words = [f'true: {", ".join(truth)}'] if truth else []
            words += Classification().words(sample.cpu(), look)
            save(lines(pixels, words), os.path.join(self.out_dir, f'{name}.png'), '--show-dir')


def _is_image(value: Any) -> bool:
    return getattr(value, 'ndim', 0) == 3


@HOOKS.register_module()
class ThreadsHook(Hook):
    """Says once, after the first iterations on a CPU, if their threads do not get the cores they want.

    It adds nothing where all is well.

    Args:
        iters: How many iterations are looked at, behind the first, which is not like the others.
    """

    priority = 'VERY_LOW'  # behind the hooks that work in an iteration, as before them

    def __init__(self, iters: int = 5) -> None:
        self._left = iters + 1
        self._waited: float | None = 0.0
        self._took = 0.0
        self._began: tuple[float | None, float] | None = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Look at the clocks; the batch is there."""
        if self._left > 0:
            self._began = threads.time_waited(), time.monotonic()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at them again; behind the last iteration, speak."""
        if self._began is None:
            return
        (waited_before, before), self._began = self._began, None
        waited, now = threads.time_waited(), time.monotonic()
        self._left -= 1
        if batch_idx > 0:
            self._took += now - before
            known = None not in (waited, waited_before, self._waited)
            self._waited = self._waited + waited - waited_before if known else None  # type: ignore
        if self._left == 0 and self._took > 0:
            share = None if self._waited is None else self._waited / self._took
            found = threads.advice(threads.situation(torch.get_num_threads(), share))
            if found:
                runner.logger.warning(f'{found[0]}. To fix it: {found[1]}.')
