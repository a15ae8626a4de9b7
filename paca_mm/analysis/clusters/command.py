"""The work behind ``paca-mm clusters``: look at the images, write sheets and the page."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray

from paca_mm.analysis.cluster_maps import clustering_backbone
from paca_mm.datasets.images import find_images
from paca_mm.engine.config import load_config
from paca_mm.engine.predict import BrokenImage, Predictor
from paca_mm.engine.walk import leave_weights_out
from paca_mm.errors import UserError
from paca_mm.files import distinct_stems, make_folder, replacing

from . import sheets
from .page import page
from .seen import Seen, resized, see


class Explorer:
    """A model, ready to have its clusters looked at.

    Args:
        cfg: The config that the checkpoint was trained with.
        checkpoint: A checkpoint, official or ours; None for random weights, always the same.
        device: Where to run; the machine's accelerator by default, or the CPU.

    Raises:
        UserError: The model has no clusters, or the checkpoint is not the config's.
    """

    def __init__(
        self, cfg: Config, checkpoint: str | None = None, device: str | None = None
    ) -> None:
        if checkpoint is None:
            leave_weights_out(cfg.model)
            if cfg.model.get('teacher') is not None:  # which would want its own
                cfg.model.teacher = None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.predictor = Predictor(cfg, checkpoint, device)
        self.cfg = cfg
        self.weights = Path(checkpoint).name if checkpoint else 'random weights'
        self.backbone = clustering_backbone(self.predictor.model)
        self._labelled = self.predictor.task.labelled(cfg)
        self._known: dict[str, Callable[[], NDArray]] = {}  # those that were passed by on the way

    def see(self, image: str, name: str = '') -> Seen:
        """Look at an image file, called by its own name or another.

        Raises:
            BrokenImage: It cannot be read.
        """
        predictor = self.predictor
        name = name or Path(image).stem
        seen = see(predictor.model, predictor.load(image), name, predictor.look)
        if seen.classes is None:
            return seen
        truth = self._truth(os.path.realpath(image))
        return seen if truth is None else replace(seen, truth=resized(truth, seen.size))

    def _truth(self, image: str) -> NDArray | None:
        """The labels of an image of the config's datasets, which are gone through no more than once."""
        while image not in self._known:
            if (entry := next(self._labelled, None)) is None:
                return None
            self._known.setdefault(*entry)
        return self._known[image]()


def explore(args: argparse.Namespace) -> list[str]:
    """Run the command, once its line is parsed; returns what is wrong with images, each in a line."""
    files = find_images(*args.images)
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    out = Path(args.out or Path('work_dirs', 'clusters', Path(args.config).stem))
    explorer = Explorer(cfg, args.checkpoint, args.device)
    block = _block(explorer.backbone, args.block)
    make_folder(out, '--out')
    taken: list[Seen] = []
    broken: list[str] = []
    for number, (file, name) in enumerate(zip(files, distinct_stems(files), strict=True), start=1):
        try:
            seen = explorer.see(file, name)
        except BrokenImage as e:
            broken.append(str(e))
            print(f'[{number}/{len(files)}] {e}', flush=True)
            continue
        write_sheets(seen, out, explorer.weights, tuple(args.at), args.top, block)
        taken.append(seen)
        print(f'[{number}/{len(files)}] {file}: {describe(seen, block)}', flush=True)
    if not taken:
        return broken
    title = f'Clusters of {Path(args.config).stem}'
    with replacing(out / 'clusters.html', '--out', flushed=False) as part:
        part.write_text(
            page(taken, title, f'{Path(args.config).name}, {explorer.weights}'), encoding='utf-8'
        )
    print(f'\nsheets: {out}/*.png\nto click on: {out / "clusters.html"}')
    if not args.checkpoint:
        print('the weights are random; a checkpoint behind the config shows what was learned')
    return broken


def _block(backbone: Any, number: int | None) -> int:
    """A block as a place in the list of a stage's, from what was typed."""
    if number is None:
        return -1
    deepest = max(backbone.depths)
    if number > deepest:
        raise UserError(
            f'--block {number}: no stage has so many; the stages have {tuple(backbone.depths)} blocks.'
        )
    return number - 1


def write_sheets(
    seen: Seen,
    out: Path,
    weights: str,
    at: tuple[float, float] = (0.5, 0.5),
    top: int = 9,
    block: int = -1,
) -> list[Path]:
    """Write all sheets of an image into a folder; returns their paths.

    Raises:
        CannotWrite: The system refuses it.
    """
    figures = {f'{seen.name}_stages': sheets.overview(seen, weights=weights, block=block)}
    for stage in seen.stages():
        view = seen.view(stage, block)
        name = f'{seen.name}_stage{stage + 1}'
        figures[name] = sheets.stage_sheet(seen, view, at, top, weights)
    if seen.classes is not None:
        figures[f'{seen.name}_classes'] = sheets.class_sheet(seen, weights)
    files = []
    for name, figure in figures.items():
        files.append(out / f'{name}.png')
        sheets.save(figure, files[-1], '--out')
    return files


def describe(seen: Seen, block: int = -1) -> str:
    """A line about an image: how many clusters get half of the attention, stage by stage."""
    words = []
    for stage in seen.stages():
        view = seen.view(stage, block)
        shares = np.sort(view.mass())[::-1].cumsum()
        half = int(np.searchsorted(shares, 0.5)) + 1
        words.append(f'stage {stage + 1}: {half} of {len(view.assignment)} clusters')
    return 'half of the attention goes to ' + ', '.join(words)
