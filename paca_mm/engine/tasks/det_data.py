"""The checks of detection's data, by what kind of dataset it is.

A COCO file is looked into as a whole. Of the hosts' XML and JSON datasets the host's own reading is
looked at. Of any other, the paths must be there.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from mmengine.config import Config

from paca_mm.datasets import coco
from paca_mm.datasets.checks import check_present, check_sizes
from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.errors import UserError, some_of

from ..data_checks import (
    as_python,
    check_images,
    check_num_classes,
    classes_of,
    is_dataset,
    is_remote,
    made_lazily,
    path_in,
)
from ..distributed import say
from ..walk import dataset_class, type_name, walk
from .base import Task


def kind_of(dataset: Mapping) -> str:
    """``'coco'``, ``'listed'`` (the host reads it, quickly) or ``'other'``."""
    try:
        from mmdet.datasets import (
            BaseDetDataset,
            CocoDataset,
            LVISV05Dataset,
            LVISV1Dataset,
            XMLDataset,
        )
    except ImportError:
        return 'other'  # building the model says what is missing
    cls = dataset_class(dataset)
    if is_dataset(dataset, CocoDataset):
        # Panoptic files have an API of their own; a class of the user's may read anything.
        readers = (CocoDataset, LVISV05Dataset, LVISV1Dataset)
        known = any(cls.load_data_list is reader.load_data_list for reader in readers)
        return 'coco' if known and 'panoptic' not in cls.COCOAPI.__name__.lower() else 'other'
    if cls is BaseDetDataset or is_dataset(dataset, XMLDataset):
        return 'listed'
    return 'other'


def _check_paths(task: Task, dataset: Mapping, place: str) -> tuple[str, str]:
    """The annotation file and the image folder, which must be there where they are named."""
    ann_file = path_in(dataset, dataset.get('ann_file', ''))
    prefix = dataset.get('data_prefix') or {}
    images = path_in(dataset, prefix.get('img', prefix.get('img_path', '')))
    if dataset.get('ann_file'):
        task.require_path(ann_file, 'annotation file', f'{place}.ann_file', dict(dataset))
    if images:
        task.require_path(images, 'image folder', f'{place}.data_prefix.img', dict(dataset))
    return ann_file, images


def _check_other(
    task: Task, cfg: Config, dataset: dict, place: str, glance: Glance
) -> Iterator[Fault]:
    _check_paths(task, dataset, place)
    classes = classes_of(dataset, place)
    if classes is not None:
        known = getattr(dataset_class(dataset), 'METAINFO', {})
        things = known.get('thing_classes') or known.get('THING_CLASSES') or ()
        check_num_classes(
            task.heads(cfg.model), classes, place, others=[len(things)] if things else []
        )
    yield from ()


def _check_listed(
    task: Task, cfg: Config, dataset: dict, place: str, glance: Glance
) -> Iterator[Fault]:
    """XML files, or OpenMMLab's own JSON: what the host makes of them."""
    ann_file, _ = _check_paths(task, dataset, place)
    classes = classes_of(dataset, place)
    if classes is not None:
        check_num_classes(task.heads(cfg.model), classes, place)
    made = made_lazily(dataset)
    try:
        samples = made.load_data_list()
    except Exception as e:  # whatever a file that is none of that kind trips over
        raise UserError(
            f'{ann_file} is not what {type_name(dataset)} reads ({type(e).__name__}: {e}).\n'
            f'  to fix it: correct it, or {place}.type: CocoDataset for COCO JSON, XMLDataset for VOC, '
            'BaseDetDataset for the JSON of OpenMMLab.'
        ) from e
    files = [sample['img_path'] for sample in samples]
    if not files:
        yield Fault('no-images', ann_file, 'lists no images.', 'name them in it.', fatal=True)
        return
    gone = yield from check_present(files, ann_file)
    labels = [i['bbox_label'] for sample in samples for i in sample.get('instances', ())]
    if not labels:
        yield Fault(
            'nothing-to-train-on',
            ann_file,
            f'lists {len(files)} images and no object of the classes {some_of(classes or ())}.',
            f'{place}.metainfo=dict(classes=(...)) with the names that its objects have.',
            fatal=place.startswith('train'),
        )
    elif classes is not None and not 0 <= min(labels) <= max(labels) < len(classes):
        yield Fault(
            'unknown-category',
            ann_file,
            f'has objects with the labels {min(labels)} to {max(labels)}, but there are '
            f'{len(classes)} classes: 0 to {len(classes) - 1}.',
            'number them from 0, or name all classes: metainfo=dict(classes=(...)).',
        )
    there = [sample for sample in samples if sample['img_path'] not in gone]
    yield from check_images([sample['img_path'] for sample in there], dataset, place, glance)
    stated = {s['img_path']: (s['width'], s['height']) for s in there if s.get('width')}
    yield from check_sizes(stated, ann_file, glance)


def _check_coco(
    task: Task, cfg: Config, dataset: dict, place: str, glance: Glance
) -> Iterator[Fault]:
    ann_file, folder = _check_paths(task, dataset, place)
    if not dataset.get('ann_file'):
        task.require_path(ann_file, 'annotation file', f'{place}.ann_file', dataset)
    file = coco.look_into(ann_file, say)
    train = place.startswith('train')
    uses = {coco.BOXES, *([coco.TRAINED] if train else ())}
    if _loads_masks(dataset):
        uses.add(coco.MASKS)
    faults = coco.faults_of(file, uses, folder)
    yield from faults
    if any(fault.kind.startswith('category-') and fault.fatal for fault in faults):
        return  # so its classes say nothing
    classes = _check_classes(task, cfg, file, dataset, place)
    if fault := coco.order_fault(file, classes, place):
        yield fault
    # Images without objects are left out of a training by filter_empty_gt.
    empty = train and (dataset.get('filter_cfg') or {}).get('filter_empty_gt')
    read = [image for image in file.images if image.objects or not empty]
    files = [os.path.join(folder, image.name) for image in read]
    gone = yield from check_present(files, ann_file)
    there = {name: image for name, image in zip(files, read, strict=True) if name not in gone}
    yield from check_images(list(there), dataset, place, glance)
    stated = {name: (int(i.width), int(i.height)) for name, i in there.items() if i.width}
    yield from check_sizes(stated, ann_file, glance)


def _check_classes(
    task: Task, cfg: Config, file: coco.CocoFile, dataset: Mapping, place: str
) -> Sequence[str]:
    """The classes that a dataset expects, each of which the file must have."""
    classes = classes_of(dataset, place)
    heads = task.heads(cfg.model)
    if classes is not None and (absent := [name for name in classes if name not in file.classes]):
        raise UserError(
            f'{file.path} annotates {len(file.classes)} classes ({some_of(file.classes)}), but the '
            f'config expects {len(classes)}, and {len(absent)} of them are not in the file '
            f'({some_of(absent)}).\n'
            '  to fix it, for your own classes:\n'
            f'    metainfo=dict(classes={as_python(file.classes)}) in each dataset, and\n'
            f'    num_classes={len(file.classes)} in {" and ".join(head.place for head in heads)}.'
        )
    check_num_classes(heads, classes or file.classes, place)
    return classes or file.classes


def _loads_masks(dataset: Mapping) -> bool:
    return any(
        type_name(step) == 'LoadAnnotations' and step.get('with_mask')
        for step in walk(dataset.get('pipeline'))
    )


def _metrics(cfg: Config, place: str) -> Iterator[Mapping]:
    """COCO's evaluators that compare with a file."""
    for evaluator in walk(cfg.get(place)):
        if type_name(evaluator) in ('CocoMetric', 'LVISMetric') and not evaluator.get(
            'format_only'
        ):
            yield evaluator


def _uses_of_metrics(cfg: Config, place: str, ann_file: str) -> set[str]:
    """What the evaluators that name a file use it for."""
    uses = set()
    for evaluator in _metrics(cfg, place):
        if evaluator.get('ann_file') == ann_file:
            metric = evaluator.get('metric', 'bbox')
            if 'segm' in ([metric] if isinstance(metric, str) else metric):
                uses.add(coco.METRIC_MASKS)
            if type_name(evaluator) != 'LVISMetric':  # LVIS has no crowds
                uses.add(coco.METRIC)
    return uses


def check_evaluators(task: Task, cfg: Config, place: str, dataset: dict) -> Iterator[Fault]:
    """The files that evaluators name: what they hold, and whether their classes are the dataset's."""
    for evaluator in walk(cfg.get(place)):
        if not evaluator.get('ann_file') or is_remote(evaluator):
            continue
        task.require_path(evaluator['ann_file'], 'annotation file', f'{place}.ann_file', dataset)
    if kind_of(dataset) != 'coco':
        return
    files = (evaluator.get('ann_file') for evaluator in _metrics(cfg, place))
    for ann_file in {file for file in files if file}:
        file = coco.look_into(ann_file, say)
        yield from coco.faults_of(file, _uses_of_metrics(cfg, place, ann_file))
        classes = classes_of(dataset, place)
        if classes is not None:
            if absent := [name for name in classes if name not in file.classes]:
                raise UserError(
                    f'{ann_file}, which {place} compares with, has the classes '
                    f'{some_of(file.classes)}, without {some_of(absent)}.\n'
                    '  to fix it: name the file of the dataset that is evaluated.'
                )
            if fault := coco.order_fault(file, classes, f'the dataset of {place}'):
                yield fault


CHECKS: Mapping[str, Callable[[Task, Config, dict, str, Glance], Iterator[Fault]]] = {
    'coco': _check_coco,
    'listed': _check_listed,
    'other': _check_other,
}
