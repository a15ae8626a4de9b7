"""The catalogue of published models, counted again."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch._subclasses.fake_tensor import FakeTensorMode

from paca_mm.engine.tasks import TASKS
from paca_mm.families import Family
from paca_mm.paths import assets_root
from paca_mm.zoo.metafiles import Entry, family_of, kind_of, read_metafile

from .flops import count


def problems_of(metafile: str, macs: bool = True) -> Iterator[str]:
    """What is wrong with a metafile, a sentence each; counts every model again.

    Args:
        metafile: Its folder below ``configs/``.
        macs: Count multiply-accumulates too, which takes a second or two a model.
    """
    family = family_of(metafile)
    task = metafile.partition('/')[0]
    entries = read_metafile(metafile)
    names = [entry.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'{name} stands there twice.'
    if family.catalogue is not None:
        kinds = [(entry.metadata.get('Row'), kind_of(entry, family)) for entry in entries]
        for kind, (of_task, _, _) in family.catalogue.kinds.items():
            for row in family.catalogue.rows_of(kind) if of_task == task else ():
                if (row, kind) not in kinds:
                    yield f'{kind}: the row {row} is missing.'
    for entry in entries:
        for problem in (*_wrong_words(entry, family), *_wrong_counts(entry, task, macs)):
            yield f'{entry.name}: {problem}'


def _wrong_words(entry: Entry, family: Family) -> Iterator[str]:
    kind = kind_of(entry, family)
    if not kind or family.catalogue is None:
        yield f'its row and its config {entry.config} do not belong together.'
        return
    if entry.name != Path(entry.config).stem:
        yield f'it must have the name of its config, {Path(entry.config).stem}.'
    url = family.catalogue.weights(kind, entry.metadata['Row'])
    together = bool(entry.weights) == bool(entry.metrics)
    if not together and (url or entry.weights) and not entry.notes:
        yield 'published weights and published results go together; where not, Notes say why.'
    if entry.weights and entry.weights != url:
        yield f'the weights of this row are at {url}, not at {entry.weights}.'
    elif entry.converted_from != entry.weights:
        yield f'Converted From names {entry.converted_from}, but the weights are {entry.weights}.'


def _wrong_counts(entry: Entry, task: str, macs: bool) -> Iterator[str]:
    file = assets_root() / entry.config
    if not file.is_file():
        yield f'the config {entry.config} does not exist.'
        return
    cfg = Config.fromfile(file)
    counted = count_parameters(cfg)
    if counted != entry.metadata['Parameters']:
        yield f'Parameters: {entry.metadata["Parameters"]}, but the model has {counted}.'
    published = entry.metadata.get('Published Parameters (M)')
    if published is not None and abs(counted / 1e6 - published) > 0.1:
        yield f'Published Parameters (M): {published}, but the model has {counted}; see the Notes.'
    if macs:
        key = 'FLOPs' if task == 'cls' else 'Backbone MACs'
        counted = count_macs(cfg, *TASKS[task].image_size)
        if counted != entry.metadata[key]:
            yield f'{key}: {entry.metadata[key]}, but the model has {counted}.'


def count_parameters(cfg: Config) -> int:
    """Trainable parameters of a config's model, which is built without memory where it can be."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
        except RuntimeError:  # mmpretrain's ResNet reads numbers off tensors while it is built
            model = MODELS.build(cfg.model)
    return sum(p.numel() for p in model.parameters())


def count_macs(cfg: Config, height: int, width: int) -> int:
    """Multiply-accumulates of one image through a classifier, or through a host's backbone."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model if cfg.default_scope == 'mmpretrain' else cfg.model.backbone)
    # Shapes run through it, and no numbers: the size of the image costs nothing.
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, 3, height, width)
        model.eval()  # which returns nothing from some hosts
        return count(model, lambda model: model(image)).macs
