"""What can be found out before the first iteration is found out before the first iteration.

:func:`check_config` goes through the data and the weights that a config names and raises a
:class:`~paca_mm.errors.UserError` with the cure for the first thing that is missing or does not fit.
"""

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from paca_mm.datasets.images import broken_images, listing
from paca_mm.datasets.labels import Labelling, check_masks
from paca_mm.datasets.shapes import DEFAULT_DIR, ensure_shapes
from paca_mm.environment import require
from paca_mm.errors import UserError
from paca_mm.families import family_of

from .config import task_of, walk

#: Images looked at before a run; the others are found when they are read.
SAMPLE = 2000

#: Masks looked at before a run, which takes longer: each is decoded.
SAMPLE_MASKS = 200

_IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm'}


def check_config(cfg: Config, phases: Sequence[str]) -> None:
    """Check the data and weights of a config; make the embedded dataset if it is the one named.

    Args:
        cfg: The config.
        phases: Of ``'train'``, ``'val'``, ``'test'``: whose dataloaders are checked.

    Raises:
        UserError: Something is missing or does not fit; the message names it and the cure.
    """
    task = task_of(cfg)
    require(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    for node in walk(cfg.get('model') or {}):
        init = node.get('init_cfg')
        if 'train' in phases and isinstance(init, dict) and init.get('type') == 'Pretrained':
            _check_weights(init.get('checkpoint'), 'init_cfg.checkpoint')
    if cfg.get('load_from'):
        _check_weights(cfg.load_from, 'load_from' if 'train' in phases else 'the command line')
    for phase in phases:
        for dataset, place in _datasets(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            if Path(dataset.get('data_root') or '').is_relative_to(DEFAULT_DIR):
                ensure_shapes(DEFAULT_DIR)
            if task == 'det':
                _check_evaluators(cfg, f'{phase}_evaluator', dataset)
            {'det': _check_det, 'seg': _check_seg, 'cls': _check_cls}[task](cfg, dataset, place)


def check_every_image(cfg: Config, phases: Sequence[str], decode: bool = False) -> None:
    """Look at every image of some dataloaders, after one of them may have stopped a run.

    Args:
        cfg: The config.
        phases: Whose dataloaders.
        decode: Read all of each file, not its ends alone, which finds damage inside.

    Raises:
        UserError: Some cannot be read; the message names them.
    """
    for phase in phases:
        for dataset, place in _datasets(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            for folder in _folders(dataset):
                _check_images(_files_below(folder), place, sample=None, decode=decode)


def _check_weights(path: str | None, place: str) -> None:
    """A local file must exist; what is in it is checked when it is read, before training."""
    if path and '://' not in path and not os.path.isfile(os.path.expanduser(path)):
        cures = {
            'init_cfg.checkpoint': 'correct it, or leave it out to start from scratch '
            '(--cfg-options model.backbone.init_cfg=None).',
            'load_from': 'correct it, or leave it out (--cfg-options load_from=None).',
        }
        cure = cures.get(
            place, 'correct the path; what was trained is in work_dirs/ or --work-dir.'
        )
        raise UserError(
            f'the weights that {place} names do not exist: {os.path.abspath(path)}\n'
            f'  to fix it: {cure}'
        )


def _datasets(node: Any, place: str) -> Iterator[tuple[dict, str]]:
    """The datasets of a dataloader below its wrappers (RepeatDataset, ConcatDataset, ...)."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _datasets(child, f'{place}.{i}')
    elif isinstance(node, dict):
        inner = [key for key in ('dataset', 'datasets') if isinstance(node.get(key), (dict, list))]
        if not inner and 'type' in node:
            yield node, place
        for key in inner:
            yield from _datasets(node[key], f'{place}.{key}')


def _check_det(cfg: Config, dataset: dict, place: str) -> None:
    ann_file = _path(dataset, dataset.get('ann_file', ''))
    images = _path(dataset, (dataset.get('data_prefix') or {}).get('img', ''))
    _check_exists(cfg, ann_file, 'annotation file', f'{place}.ann_file', dataset)
    _check_exists(cfg, images, 'image folder', f'{place}.data_prefix.img', dataset)
    classes = _classes(dataset)
    categories = _categories(ann_file)
    if classes is not None:
        absent = [name for name in classes if name not in categories]
        if absent:
            raise UserError(
                f'{ann_file} annotates {len(categories)} classes ({_some(categories)}), but the '
                f'config expects {len(classes)}, and {len(absent)} of them are not in the file '
                f'({_some(absent)}).\n'
                '  to fix it, for your own classes:\n'
                f'    metainfo=dict(classes={_python(categories)}) in each dataset, and\n'
                f'    num_classes={len(categories)} in roi_head.bbox_head and roi_head.mask_head.'
            )
    _check_num_classes(cfg, classes or categories, place)
    _check_images(_files_of(images), place)


def _check_evaluators(cfg: Config, place: str, dataset: dict) -> None:
    for evaluator in walk(cfg.get(place)):
        if evaluator.get('ann_file'):
            _check_exists(cfg, evaluator['ann_file'], 'annotation file', place, dataset)


def _check_seg(cfg: Config, dataset: dict, place: str) -> None:
    _check_levels(cfg)
    prefix = dataset.get('data_prefix') or {}
    images = _path(dataset, prefix.get('img_path', ''))
    masks = _path(dataset, prefix.get('seg_map_path', ''))
    _check_exists(cfg, images, 'image folder', f'{place}.data_prefix.img_path', dataset)
    _check_exists(cfg, masks, 'mask folder', f'{place}.data_prefix.seg_map_path', dataset)
    classes = _classes(dataset)
    if classes is not None:
        _check_num_classes(cfg, classes, place)
    _check_images(_files_of(images), place)
    _check_labels(cfg, dataset, place, classes)


def _check_labels(cfg: Config, dataset: dict, place: str, classes: tuple[str, ...] | None) -> None:
    """The masks against the classes; tells ``paca_mm.CheckLabels`` how many there are."""
    num_classes = len(classes) if classes else max(_heads(cfg), default=0)
    steps = list(dataset.get('pipeline') or [])
    loads = any(step.get('type') in ('LoadAnnotations', 'mmseg.LoadAnnotations') for step in steps)
    if not num_classes or not loads:
        return  # a path of the user's own, from files to classes
    for step in steps:
        if step['type'] == 'paca_mm.CheckLabels':
            step.setdefault('num_classes', num_classes)
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return  # building the model says what is missing

    if not _is_dataset(dataset, BaseSegDataset):
        return
    try:
        made = _made_lazily(dataset)
    except ValueError as e:
        if 'METAINFO' not in str(e):
            raise
        raise UserError(
            f'the classes of {place.partition(".")[0]} ({_some(classes or ())}) are not all among '
            f'those that {dataset["type"]} is known for.\n'
            "  to fix it, for classes of your own: type='BaseSegDataset' in each dataset."
        ) from e
    files = made.load_data_list()
    if not files:
        folder = made.data_prefix.get('img_path')
        raise UserError(
            f'{place.partition(".")[0]} has no images: none in {folder} ends in '
            f'{made.img_suffix!r}.\n  to fix it: img_suffix=... in the dataset (and seg_map_suffix, '
            f'{made.seg_map_suffix!r} now, for the masks).'
        )
    check_masks(
        [(file['img_path'], file['seg_map_path']) for file in files if file.get('seg_map_path')],
        Labelling(num_classes, made.reduce_zero_label, made.label_map, made.ignore_index),
        SAMPLE_MASKS,
        every_class=place.startswith('train'),
    )


def _check_levels(cfg: Config) -> None:
    """The channels that each head expects against those of our backbone, before it is built."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    neck = model.get('neck') or {'type': 'GlobalAveragePooling'}  # as many channels behind it
    family = family_of(backbone.get('type') or '')
    if family is None or family.widths is None or 'GlobalAveragePooling' not in neck.values():
        return
    arch = backbone.get('arch')
    stages = family.widths(backbone)
    widths = [stages[i] for i in sorted(backbone.get('out_indices', range(len(stages))))]
    for name in ('decode_head', 'auxiliary_head', 'head'):
        heads = model.get(name) or []
        for head in [heads] if isinstance(heads, dict) else heads:
            channels, levels = head.get('in_channels'), head.get('in_index', -1)
            if not isinstance(channels, (list, tuple)) or not isinstance(levels, (list, tuple)):
                channels, levels = [channels], [levels]
            try:
                found = [widths[i] for i in levels]
            except (IndexError, TypeError):
                continue  # the head knows better what is wrong with them
            if [*channels] != found and all(isinstance(c, int) for c in channels):
                where = f'levels in_index={_plain(levels)}' if 'in_index' in head else 'last stage'
                raise UserError(
                    f'{name} ({head.get("type")}) has in_channels={_plain(channels)}, but the '
                    f'{where} of the backbone'
                    + (f' (arch={arch!r})' if isinstance(arch, str) else '')
                    + f' {"have" if "in_index" in head else "has"} {_plain(found)} channels.\n'
                    f'  to fix it: in_channels={_plain(found)} in {name}, or the arch that fits.'
                )


def _plain(numbers: Sequence[int]) -> str:
    """As it stands in a config: a list, or the number where there is one."""
    return str([*numbers] if len(numbers) > 1 else numbers[0])


def _check_cls(cfg: Config, dataset: dict, place: str) -> None:
    _check_levels(cfg)
    try:
        from mmpretrain.datasets import CustomDataset
    except ImportError:
        return  # building the model says what is missing

    if not _is_dataset(dataset, CustomDataset):
        return  # a path of the user's own, from files to classes
    try:
        made = _made_lazily(dataset)
    except AssertionError as e:  # split='vall', say
        raise UserError(f'{place} is no dataset as it stands: {e}') from e
    folder = made.img_prefix
    _check_exists(cfg, folder, 'image folder', place, dataset)
    if made.ann_file:  # ImageNet's is found beside the folders where there is one
        _check_exists(cfg, made.ann_file, 'list of labels', f'{place}.ann_file', dataset)
        if made.CLASSES:
            _check_num_classes(cfg, made.CLASSES, place)
    elif made.with_label:
        _check_class_folders(cfg, made, dataset, place)
    try:
        files = made.load_data_list()
    except RuntimeError as e:
        raise UserError(
            f'{place.partition(".")[0]} has no images: none in the class folders of {folder} ends '
            f'in {", ".join(sorted(made.extensions))}.\n  to fix it: put images into the folders, '
            'or name their endings: extensions=(...) in the dataset.'
        ) from e
    except ValueError as e:
        raise UserError(
            f'{made.ann_file} is no list of labels ({e}): every line must be an image (from '
            f"{folder}), a space and its class's number, such as: a.jpg 0"
        ) from e
    _check_labels_of(cfg, {file['gt_label'] for file in files if 'gt_label' in file}, made.ann_file)
    if place == 'train_dataloader.dataset':  # unwrapped, so these are all
        _check_batch(cfg.train_dataloader, len(files), folder)
    _check_images([file['img_path'] for file in files], place)


def _check_class_folders(cfg: Config, made: Any, dataset: dict, place: str) -> None:
    """One folder a class: as many as the head has, and the same for training and validation."""
    folder = made.img_prefix
    names = _class_folders(folder)
    if not names:
        flat = len(_files_of(folder))
        raise UserError(
            f'{folder} has no class folders'
            + (f', but {flat} images lie in it directly' if flat else '')
            + '.\n  expected: one folder per class with its images, '
            f'{folder}/<class>/<image>.\n  to fix it: move the images into class folders (for '
            "ImageNet's validation set, the class of each image is in its ground-truth list)."
        )
    _check_num_classes(cfg, names, place)
    if made.CLASSES and len(made.CLASSES) != len(names):
        raise UserError(
            f'{folder} has {len(names)} class folders ({_some(names)}), but {dataset["type"]} is to '
            f'have {len(made.CLASSES)} classes.\n  to fix it, for your own classes: '
            "type='CustomDataset' in each dataset, with data_prefix instead of split and no metainfo."
        )
    for train, _ in _datasets(cfg.get('train_dataloader'), 'train_dataloader'):
        other = _path(train, train.get('data_prefix') or train.get('split') or '')
        if train.get('data_root') != dataset.get('data_root') or not os.path.isdir(other):
            continue
        if odd := sorted({*names} ^ {*_class_folders(other)}):
            raise UserError(
                f'{folder} and {other} do not have the same class folders: {_some(odd)} '
                f'{"is" if len(odd) == 1 else "are"} in one of them only. A class is numbered by its '
                "folder's place in the alphabet, so the numbers would not mean the same.\n"
                '  to fix it: the same folders in both (one may be empty).'
            )


def _is_dataset(dataset: dict, base: type) -> bool:
    with DATASETS.switch_scope_and_registry(None) as registry:
        cls = registry.get(dataset['type'])
    return isinstance(cls, type) and issubclass(cls, base)


def _made_lazily(dataset: dict) -> Any:
    """The dataset as its host makes it, without reading its files."""
    return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})


def _class_folders(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir())


def _check_labels_of(cfg: Config, labels: set[int], ann_file: str) -> None:
    """A list of labels against the heads; folders have been counted."""
    for num_classes, head in _heads(cfg).items():
        if wrong := sorted(label for label in labels if not 0 <= label < num_classes):
            raise UserError(
                f'{ann_file} holds the class {_some([*map(str, wrong)])}, but {head} has num_classes='
                f'{num_classes}: 0 to {num_classes - 1}.\n  to fix it: correct the list (it counts '
                'from 0), or num_classes in every head of the model.'
            )


def _check_batch(loader: dict, count: int, folder: str) -> None:
    """Fewer images than a batch, and incomplete batches left out: that trains nothing at all."""
    batch = loader.get('batch_size') or 1
    if loader.get('drop_last') and count < batch:
        raise UserError(
            f'{folder} has {count} images, fewer than a batch of {batch}, and drop_last=True leaves '
            'incomplete batches out: there is nothing to train on.\n'
            f'  to fix it: --cfg-options train_dataloader.batch_size={count}'
        )


def _path(dataset: dict, path: Any) -> str:
    return os.path.join(dataset.get('data_root') or '', path if isinstance(path, str) else '')


def _check_exists(cfg: Config, path: str, what: str, place: str, dataset: dict) -> None:
    if os.path.exists(path):
        return
    root = (dataset.get('data_root') or os.path.dirname(path)).rstrip('/')
    task = task_of(cfg)
    link = os.path.islink(root) and not os.path.exists(root)
    missing = (
        f'the {what} of {place.partition(".")[0]} is missing.\n'
        f'  looked for: {os.path.abspath(path)}\n'
    )
    if os.path.isdir(root) and os.listdir(root):
        raise UserError(
            f'{missing}  {root} holds: {_some(sorted(os.listdir(root)), 12)}\n'
            f'  to fix it: correct {place} (or its data_root).'
        )
    raise UserError(
        missing
        + (f'  {root} is a link to {os.readlink(root)}, which does not exist\n' if link else '')
        + f'  to fix it: ln -s /path/to/your/{os.path.basename(root)} {root}\n'
        f'  or name it: --cfg-options {place.partition(".")[0]}.dataset.data_root=/path/to/your/data/\n'
        '  without any download: run the same command with --shapes, or try the embedded dataset:\n'
        f'    python tools/train.py {SHAPES_CONFIGS[task]}'
    )


#: The config of each task that needs no download.
SHAPES_CONFIGS = {
    'det': 'configs/det/mask_rcnn_paca_shapes.py',
    'seg': 'configs/seg/paca_head_paca_shapes.py',
    'cls': 'configs/cls/paca_shapes.py',
}


def _classes(dataset: dict) -> tuple[str, ...] | None:
    """The classes that a dataset expects: its ``metainfo``, or what its type is known for."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(dataset['type'])
        classes = getattr(cls, 'METAINFO', {}).get('classes')
    if isinstance(classes, str):
        return tuple(Path(classes).read_text().split()) if os.path.isfile(classes) else (classes,)
    return tuple(classes) if classes else None


def _categories(ann_file: str) -> tuple[str, ...]:
    """The class names of a COCO file, read from their own part of it (the file may be 450 MB)."""
    try:
        with open(ann_file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begin = text.rfind(b'"categories"')
            begin = text.find(b'[', begin) if begin >= 0 else -1
            if begin < 0:
                raise ValueError('it has no "categories"')
            part = text[begin : begin + 8_000_000].decode('utf-8', 'replace')
        categories = json.JSONDecoder().raw_decode(part)[0]
        return tuple(category['name'] for category in categories)
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{ann_file} is no COCO annotation file, or a torn one ({e}): it must be JSON with '
            'images, annotations and categories.'
        ) from e


def _heads(cfg: Config) -> dict[int, str]:
    """The class counts in a model, each with the type of a part that has it."""
    return {
        node['num_classes']: node.get('type', 'model')
        for node in walk(cfg.get('model') or {})
        if isinstance(node.get('num_classes'), int)
    }


def _check_num_classes(cfg: Config, classes: Sequence[str], place: str) -> None:
    for num_classes, head in _heads(cfg).items():
        if num_classes != len(classes):
            raise UserError(
                f'{head} has num_classes={num_classes}, but the dataset of '
                f'{place.partition(".")[0]} has {len(classes)} classes ({_some(classes)}).\n'
                f'  to fix it: num_classes={len(classes)} in every head of the model, or the data '
                'that the model was made for.'
            )


def _folders(dataset: dict) -> list[str]:
    """The image folders of any dataset: what its ``data_prefix`` or ``split`` names."""
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    names = prefix.values() if isinstance(prefix, dict) else [prefix]
    return [path for path in (_path(dataset, name) for name in names) if os.path.isdir(path)]


def _files_below(folder: str) -> list[str]:
    return [file for path, _, _ in os.walk(folder, followlinks=True) for file in _files_of(path)]


def _files_of(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.path for e in entries if os.path.splitext(e.name)[1].lower() in _IMAGES)


def _check_images(
    files: list[str], place: str, sample: int | None = SAMPLE, *, decode: bool = False
) -> None:
    broken = broken_images(files, sample=sample, decode=decode)
    if broken:
        raise UserError(
            f'images of {place.partition(".")[0]} cannot be read:\n{listing(broken)}\n'
            '  to fix it: fetch these files again, or remove them and their annotations.'
        )


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f', ... {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def _python(names: Sequence[str]) -> str:
    """The names as a user would write them in a config."""
    return repr(tuple(names)) if len(names) <= 6 else f'({", ".join(map(repr, names[:6]))}, ...)'
