"""What the datasets of a config hold: faults, and the statistics that tell whether data is sound."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from paca_mm.datasets.faults import FIRST, Fault, Offender
from paca_mm.datasets.images import loader_of
from paca_mm.datasets.labels import Labelling
from paca_mm.engine.data_checks import classes_of, datasets_of, made_lazily, make_named_shapes
from paca_mm.engine.tasks import Task, task_for
from paca_mm.engine.walk import type_name
from paca_mm.environment import require
from paca_mm.errors import UserError, some_of

from .scan import Job, Scanned, scan

#: COCO's limits between small, medium and large objects: the area of a box in pixels.
SMALL, LARGE = 32**2, 96**2


class Sample(NamedTuple):
    """An image of a dataset, as its host lists it.

    Attributes:
        image: The file.
        mask: The file of its classes, of a segmentation dataset.
        labels: The classes of its objects, or of the image.
        boxes: Left, top, right, bottom of its objects, in pixels.
    """

    image: str
    mask: str | None
    labels: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]


@dataclass
class Surveyed:
    """What one dataset holds.

    Attributes:
        place: Where it stands in the config.
        type: Its type.
        classes: The names of its classes, as far as they are known.
        images: How many images it has.
        empty: How many of them have no object (no pixel of a class) at all.
        counts: Of every class: its images, objects or pixels.
        unit: What ``counts`` counts.
        sides: The root of the area of every box, in pixels.
        faults: What is wrong with it.
    """

    place: str
    type: str
    classes: tuple[str, ...] = ()
    images: int = 0
    empty: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    unit: str = 'objects'
    sides: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def box_sizes(self) -> dict[str, Any]:
        """How many boxes are small, medium and large, and how long their sides are."""
        if not self.sides:
            return {}
        sides = np.asarray(self.sides)
        small, large = int((sides**2 < SMALL).sum()), int((sides**2 >= LARGE).sum())
        low, middle, high = np.percentile(sides, [5, 50, 95]).round(1).tolist()
        return {
            'small': small,
            'medium': len(sides) - small - large,
            'large': large,
            'side_5_percent': low,
            'side_median': middle,
            'side_95_percent': high,
        }

    def class_name(self, label: int) -> str:
        """What a class is called."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)


@dataclass
class Survey:
    """What all datasets of a config hold.

    Attributes:
        config: The config's file.
        datasets: The datasets.
        faults: What is wrong between them.
    """

    config: str
    datasets: list[Surveyed]
    faults: list[Fault]

    def all_faults(self) -> list[tuple[str, Fault]]:
        """Every fault with the place of its dataset, errors first."""
        found = [(dataset.place, fault) for dataset in self.datasets for fault in dataset.faults]
        found += [('between them', fault) for fault in self.faults]
        return sorted(found, key=lambda pair: not pair[1].fatal)

    @property
    def fatal(self) -> bool:
        """Whether a run would end or be wrong."""
        return any(fault.fatal for _, fault in self.all_faults())


def survey(
    cfg: Config,
    phases: Sequence[str],
    kept: Path,
    workers: int,
    begin: Callable[[int], None] = lambda count: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Survey:
    """Look at every file of the datasets of a config.

    Args:
        cfg: The config.
        phases: Of ``'train'``, ``'val'``, ``'test'``.
        kept: The file that remembers what was read, for the next time.
        workers: Number of processes that read.
        begin: Is told how many files there are.
        advance: Is told how many more are done.

    Raises:
        UserError: The config has no such dataset.
    """
    task = task_for(cfg)
    require(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    found = list(_datasets(cfg, phases))
    if not found:
        raise UserError(f'{cfg.filename} has no datasets for {some_of(phases)}.')
    for dataset, _ in found:
        make_named_shapes(dataset)
    samples = {place: _samples(dataset) for dataset, place in found}
    jobs = [job for dataset, place in found for job in _jobs(dataset, samples[place] or [])]
    begin(len({*jobs}))
    scanned = scan(jobs, kept, workers, advance)
    datasets = [
        _surveyed(task, cfg, dataset, place, samples[place], scanned) for dataset, place in found
    ]
    between = list(_shared(samples, scanned))
    return Survey(str(cfg.filename), datasets, between)


def _datasets(cfg: Config, phases: Sequence[str]) -> Iterator[tuple[dict, str]]:
    """The datasets, each once: a config often tests on what it validates on."""
    seen: list[Any] = []
    for phase in phases:
        for dataset, place in datasets_of(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            if dataset not in seen:
                seen.append(dataset)
                yield dataset, place


def _samples(dataset: Mapping) -> list[Sample] | None:
    """The images of a dataset; None if its host cannot list them, which the checks explain."""
    try:
        with redirect_stdout(StringIO()):  # pycocotools counts seconds there
            made = made_lazily(dataset)
            return [_sample(entry) for entry in made.load_data_list()]
    except Exception:
        return None


def _sample(entry: Mapping[str, Any]) -> Sample:
    objects = [o for o in entry.get('instances') or () if not o.get('ignore_flag')]
    labels = [int(o['bbox_label']) for o in objects]
    if 'gt_label' in entry:
        labels = [int(label) for label in np.atleast_1d(entry['gt_label'])]
    return Sample(
        entry['img_path'],
        entry.get('seg_map_path'),
        tuple(labels),
        tuple(tuple(map(float, o['bbox'])) for o in objects),
    )


def _jobs(dataset: Mapping, samples: Iterable[Sample]) -> Iterator[Job]:
    loader = loader_of(dataset.get('pipeline') or [])
    for sample in samples:
        yield Job(sample.image, loader)
        if sample.mask:
            yield Job(sample.mask, image=sample.image)


def _surveyed(
    task: Task,
    cfg: Config,
    dataset: dict,
    place: str,
    samples: Sequence[Sample] | None,
    scanned: Scanned,
) -> Surveyed:
    found = Surveyed(place, type_name(dataset))
    try:
        found.classes = classes_of(dataset, place) or ()
        phase = place.partition('_')[0]
        found.faults += task.check_dataset(cfg, dataset, place, scanned)
        found.faults += task.check_evaluators(cfg, f'{phase}_evaluator', dataset)
    except UserError as e:
        what, _, cure = str(e).partition('\n  to fix it: ')
        found.faults.append(Fault('config', place, f'does not fit: {what}', cure or 'see above.'))
    once = {(fault.kind, fault.where): fault for fault in found.faults}
    found.faults = sorted(once.values(), key=lambda fault: not fault.fatal)
    if samples is None:
        return found
    found.images = len(samples)
    counts: Counter[int] = Counter()
    if any(sample.mask for sample in samples):
        found.unit = 'pixels'
        made = made_lazily(dataset)
        labelling = Labelling(
            len(found.classes) or 256, made.reduce_zero_label, made.label_map, made.ignore_index
        )
        for sample in samples:
            of_image = _pixels(sample, labelling, scanned)
            found.empty += not of_image
            counts.update(of_image)
    else:
        found.unit = 'objects' if any(sample.boxes for sample in samples) else 'images'
        for sample in samples:
            counts.update(sample.labels)
            found.empty += not sample.labels
            for left, top, right, bottom in sample.boxes:
                found.sides.append((max(right - left, 0) * max(bottom - top, 0)) ** 0.5)
    found.counts = dict(counts)
    absent = [k for k in range(len(found.classes)) if not counts[k]]
    if absent and place.startswith('train') and counts:
        found.faults.append(
            Fault(
                'class-without-data',
                place,
                f'has no {found.unit} of {len(absent)} of its {len(found.classes)} classes.',
                'leave them out of the classes, or add data.',
                count=len(absent),
                first=tuple(Offender(found.class_name(k)) for k in absent[:FIRST]),
                fatal=False,
            )
        )
    return found


def _pixels(sample: Sample, labelling: Labelling, scanned: Scanned) -> dict[int, int]:
    """The pixels of each class in a mask."""
    if not sample.mask:
        return {}
    (mask,) = scanned.masks([(sample.image, sample.mask)])
    pixels: Counter[int] = Counter()
    for number, count in mask.counts.items():
        if 0 <= (label := labelling.label_of(number)) < labelling.num_classes:
            pixels[label] += count
    return {label: n for label, n in pixels.items() if label != labelling.ignore_index}


def _shared(samples: Mapping[str, Sequence[Sample] | None], scanned: Scanned) -> Iterator[Fault]:
    """The same image in what is trained on and in what is evaluated on, or twice in one of them."""
    train: dict[str, str] = {}
    twice: list[Offender] = []
    for place, found in samples.items():
        here: dict[str, str] = {}
        shared: list[Offender] = []
        for sample in found or ():
            digest = scanned.digest(sample.image)
            if digest is None:
                continue
            if digest in here:
                twice.append(Offender(f'{sample.image} = {here[digest]}', sample.image))
            elif digest in train and not place.startswith('train'):
                shared.append(Offender(f'{sample.image} = {train[digest]}', sample.image))
            here.setdefault(digest, sample.image)
        if shared:
            yield Fault(
                'train-image',
                place,
                f'has {len(shared)} of its {len(found or ())} images in common with what is trained '
                'on: a model is measured on what it has seen.',
                'remove them from one of the two.',
                count=len(shared),
                first=tuple(shared[:FIRST]),
            )
        if place.startswith('train'):
            train |= here
    if twice:
        yield Fault(
            'same-image-twice',
            'the datasets',
            f'hold {len(twice)} images a second time, byte for byte.',
            'remove the copies.',
            count=len(twice),
            first=tuple(twice[:FIRST]),
            fatal=False,
        )
