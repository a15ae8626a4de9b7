"""Running networks over the images of a config's dataset: before training, and after it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from paca_mm.analysis.build import build, quiet
from paca_mm.analysis.cluster_maps import (
    class_clusters,
    cluster_maps,
    clustering_backbone,
    mass,
)
from paca_mm.checkpoint import load_whole, read_checkpoint
from paca_mm.engine.checks import check_config
from paca_mm.engine.data_checks import datasets_of
from paca_mm.engine.distributed import device as default_device
from paca_mm.engine.loading import NamesFile
from paca_mm.engine.predict import image_pipeline
from paca_mm.engine.tasks import task_for
from paca_mm.engine.walk import leave_weights_out
from paca_mm.environment import require
from paca_mm.errors import UserError

from .tally import Tally


@dataclass(frozen=True)
class Sample:
    """An image of a dataset.

    Attributes:
        packed: What the pipeline made of it.
        labels: The class of every pixel, (h, w); None where the dataset has no such labels.
    """

    packed: dict[str, Any]
    labels: NDArray | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image as the pipeline gives it."""
        height, width = self.packed['inputs'].shape[-2:]
        return height, width


@dataclass(frozen=True)
class Samples:
    """Images of a dataset.

    Attributes:
        chosen: Those that were taken.
        found: How many there are.
        source: Where they are from, in words.
        classes: Their names, if every pixel of every image has one.
        why_none: Why there are no labels, where there are none.
    """

    chosen: tuple[Sample, ...]
    found: int
    source: str
    classes: tuple[str, ...] | None
    why_none: str = ''


def load_samples(cfg: Config, split: str = 'val', most: int = 64) -> Samples:
    """Images of a config's dataset with their labels, by the pipeline that the config has for them.

    Args:
        cfg: The config.
        split: ``'val'`` or ``'train'``. Images to train on go through the pipeline of the validation, so
            that nothing about them is random.
        most: How many; evenly spread where there are more.

    Raises:
        UserError: There are none, or the dataset is not there.
    """
    task = task_for(cfg)
    require(task.scope)
    init_default_scope(cfg.default_scope)
    check_config(cfg, (split,))
    place = f'{split}_dataloader'
    datasets = []
    validated = [node for node, _ in datasets_of(cfg.get('val_dataloader'), 'val_dataloader')]
    pipeline = validated[0].get('pipeline') if validated else image_pipeline(cfg)
    for settings, _ in datasets_of(cfg.get(place), place):
        dataset = DATASETS.build({**settings, 'pipeline': pipeline})
        dataset.pipeline = NamesFile(dataset.pipeline)
        datasets.append(dataset)
    ends = np.cumsum([len(dataset) for dataset in datasets]).tolist() or [0]
    if not ends[-1]:
        raise UserError(
            f'the dataset of {place} has no images, so there is nothing to measure.\n'
            '  to fix it: --split of the other dataset, or --shapes for the embedded one.'
        )
    samples = []
    numbers = range(ends[-1])
    if len(numbers) > most:
        numbers = np.linspace(0, ends[-1] - 1, most).round().astype(int).tolist()
    for number in numbers:
        which = int(np.searchsorted(ends, number, side='right'))
        packed = datasets[which][number - (ends[which - 1] if which else 0)]
        samples.append(Sample(packed, task.label_map(packed['data_samples'])))
    classes = task.label_names(datasets[0].metainfo.get('classes') or ())
    why = ''
    without = sum(sample.labels is None for sample in samples)
    if without:
        why = task.no_label_map
        if without < len(samples):
            why = f'{without} of {len(samples)} images have no masks'
    elif not classes:
        why = 'the dataset does not name its classes'
    return Samples(tuple(samples), ends[-1], place, classes if not why else None, why)


def measured(model: Any, samples: Samples, block: int = -1) -> list[Tally]:
    """The clusters of a model over the images: a tally for each stage, and for its head if it has some.

    Args:
        model: In evaluation mode, but for what its caller wants otherwise.
        samples: The images; one at a time, so that none is padded to the size of another.
        block: Which block of each stage, counted from 0 or from the end.
    """
    tallies: dict[str, Tally] = {}
    device = next(model.parameters()).device
    count = len(samples.classes) if samples.classes else None
    for number, sample in enumerate(samples.chosen):
        data = copy.deepcopy(sample.packed)
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        with torch.no_grad():
            inputs = model.data_preprocessor(batch, False)['inputs'].to(device)
            found = [
                (f'stage {m.stage + 1}', m) for m in cluster_maps(model, inputs, blocks=[block])
            ]
            if (of_head := class_clusters(model, inputs)) is not None:
                found.append(('head', of_head))
        labels = others = None
        if count:
            labels = sample.labels
            if len(samples.chosen) > 1:
                others = samples.chosen[(number + 1) % len(samples.chosen)].labels
        for name, maps in found:
            z = maps.assignment[0].double().cpu().numpy()
            tally = tallies.setdefault(name, Tally(name, len(z), count))
            tally.add(
                z,
                mass(maps.attention)[0].double().cpu().numpy(),
                (inputs.shape[2], inputs.shape[3]),
                sample.shape,
                labels,
                others,
            )
    return list(tallies.values())


def untrained_model(cfg: Config, seed: int) -> Any:
    """A config's model with the random weights of a seed; what it would load is left out.

    BatchNorms normalise by the image at hand: the statistics of a new one are those of nothing.

    Raises:
        UserError: It has no clusters.
    """
    cfg = copy.deepcopy(cfg)
    leave_weights_out(cfg.model)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        model: Any = build(cfg)
        clustering_backbone(model)
        model.init_weights()
    model.eval().to(default_device())
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return model


def trained_model(cfg: Config, checkpoint: str) -> Any:
    """A config's model with the weights of a checkpoint.

    Raises:
        UserError: It has no clusters; the checkpoint cannot be read, or is another model's.
    """
    cfg = copy.deepcopy(cfg)
    leave_weights_out(cfg.model)
    with torch.random.fork_rng(), quiet():
        model: Any = build(cfg)
    clustering_backbone(model)
    load_whole(model, read_checkpoint(checkpoint), checkpoint, strict=True)
    return model.eval().to(default_device())


def over_seeds(found: Sequence[Sequence[Tally]]) -> Iterator[tuple[Tally, list[dict]]]:
    """Each stage with its figures, one dict for every seed."""
    for same in zip(*found, strict=True):
        yield same[0], [tally.figures() for tally in same]
