"""What can be found out before the first iteration is found out before the first iteration.

:func:`check_config` goes through the data and the weights that a config names and raises a
:class:`~paca_mm.errors.UserError` with the cure for the first thing that is missing or does not fit.
"""

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from paca_mm.datasets.labels import Labelling, check_masks
from paca_mm.datasets.pictures import broken_pictures, listing
from paca_mm.datasets.shapes import DEFAULT_DIR, ensure_shapes
from paca_mm.errors import UserError

from .config import task_of, walk

#: Pictures looked at before a run; the others are found when they are read.
SAMPLE = 2000

#: Masks looked at before a run, which takes longer: each is decoded.
SAMPLE_MASKS = 200

_PICTURES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm'}


def check_config(cfg: Config, phases: Sequence[str]) -> None:
    """Check the data and weights of a config; make the embedded dataset if it is the one named.

    Args:
        cfg: The config.
        phases: Of ``'train'``, ``'val'``, ``'test'``: whose dataloaders are checked.

    Raises:
        UserError: Something is missing or does not fit; the message names it and the cure.
    """
    task = task_of(cfg)
    init_default_scope(cfg.default_scope)
    for node in walk(cfg.get('model') or {}):
        init = node.get('init_cfg')
        if 'train' in phases and isinstance(init, dict) and init.get('type') == 'Pretrained':
            _check_weights(init.get('checkpoint'), 'init_cfg.checkpoint')
    if cfg.get('load_from'):
        _check_weights(cfg.load_from, 'load_from')
    for phase in phases:
        for dataset, place in _datasets(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            if Path(dataset.get('data_root') or '').is_relative_to(DEFAULT_DIR):
                ensure_shapes(DEFAULT_DIR)
            if task == 'det':
                _check_evaluators(cfg, f'{phase}_evaluator', dataset)
            {'det': _check_det, 'seg': _check_seg, 'cls': _check_cls}[task](cfg, dataset, place)


def check_every_picture(cfg: Config, phases: Sequence[str]) -> None:
    """Look at every picture of some dataloaders, after one of them may have stopped a run.

    Raises:
        UserError: Some cannot be read; the message names them.
    """
    for phase in phases:
        for dataset, place in _datasets(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            for folder in _folders(dataset):
                _check_pictures(_files_below(folder), place, sample=None)


def _check_weights(path: Optional[str], place: str) -> None:
    """A local file must exist; what is in it is checked when it is read, before training."""
    if path and '://' not in path and not os.path.isfile(os.path.expanduser(path)):
        raise UserError(
            f'the weights that {place} names do not exist: {os.path.abspath(path)}\n'
            f'  to mend it: correct {place}, or leave it out to start from scratch '
            '(--cfg-options model.backbone.init_cfg=None).'
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
    pictures = _path(dataset, (dataset.get('data_prefix') or {}).get('img', ''))
    _check_exists(cfg, ann_file, 'annotation file', f'{place}.ann_file', dataset)
    _check_exists(cfg, pictures, 'picture folder', f'{place}.data_prefix.img', dataset)
    classes = _classes(dataset)
    categories = _categories(ann_file)
    if classes is not None:
        absent = [name for name in classes if name not in categories]
        if absent:
            raise UserError(
                f'{ann_file} annotates {len(categories)} classes ({_some(categories)}), but the '
                f'config expects {len(classes)}, and {len(absent)} of them are not in the file '
                f'({_some(absent)}).\n'
                '  to mend it, for your own classes:\n'
                f'    metainfo=dict(classes={_python(categories)}) in each dataset, and\n'
                f'    num_classes={len(categories)} in roi_head.bbox_head and roi_head.mask_head.'
            )
    _check_num_classes(cfg, classes or categories, place)
    _check_pictures(_files_of(pictures), place)


def _check_evaluators(cfg: Config, place: str, dataset: dict) -> None:
    for evaluator in walk(cfg.get(place)):
        if evaluator.get('ann_file'):
            _check_exists(cfg, evaluator['ann_file'], 'annotation file', place, dataset)


def _check_seg(cfg: Config, dataset: dict, place: str) -> None:
    _check_levels(cfg)
    prefix = dataset.get('data_prefix') or {}
    pictures = _path(dataset, prefix.get('img_path', ''))
    masks = _path(dataset, prefix.get('seg_map_path', ''))
    _check_exists(cfg, pictures, 'picture folder', f'{place}.data_prefix.img_path', dataset)
    _check_exists(cfg, masks, 'mask folder', f'{place}.data_prefix.seg_map_path', dataset)
    classes = _classes(dataset)
    if classes is not None:
        _check_num_classes(cfg, classes, place)
    _check_pictures(_files_of(pictures), place)
    _check_labels(cfg, dataset, place, classes)


def _check_labels(
    cfg: Config, dataset: dict, place: str, classes: Optional[tuple[str, ...]]
) -> None:
    """The masks against the classes; tells ``paca_mm.CheckLabels`` how many there are."""
    heads = [n['num_classes'] for n in walk(cfg.get('model') or {}) if n.get('num_classes')]
    num_classes = len(classes) if classes else max(heads, default=0)
    steps = list(dataset.get('pipeline') or [])
    loads = any(step.get('type') in ('LoadAnnotations', 'mmseg.LoadAnnotations') for step in steps)
    if not num_classes or not loads:
        return  # a road of the user's own, from files to classes
    for step in steps:
        if step['type'] == 'paca_mm.CheckLabels':
            step.setdefault('num_classes', num_classes)
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return  # building the model says what is missing

    with DATASETS.switch_scope_and_registry(None) as registry:
        cls = registry.get(dataset['type'])
    if not (isinstance(cls, type) and issubclass(cls, BaseSegDataset)):
        return
    try:
        made = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
    except ValueError as e:
        if 'METAINFO' not in str(e):
            raise
        raise UserError(
            f'the classes of {place.partition(".")[0]} ({_some(classes or ())}) are not all among '
            f'those that {dataset["type"]} is known for.\n'
            "  to mend it, for classes of your own: type='BaseSegDataset' in each dataset."
        ) from e
    files = made.load_data_list()
    if not files:
        folder = made.data_prefix.get('img_path')
        raise UserError(
            f'{place.partition(".")[0]} has no pictures: none in {folder} ends in '
            f'{made.img_suffix!r}.\n  to mend it: img_suffix=... in the dataset (and seg_map_suffix, '
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
    from paca_mm.models.backbones.archs import resolve_arch

    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    if backbone.get('type') != 'paca_mm.PaCaViT' or model.get('neck'):
        return
    arch = backbone.get('arch', 'small')
    stages = resolve_arch(arch)['embed_dims']
    widths = [stages[i] for i in sorted(backbone.get('out_indices', range(len(stages))))]
    for name in ('decode_head', 'auxiliary_head'):
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
                raise UserError(
                    f'{name} ({head.get("type")}) has in_channels={_plain(channels)}, but the '
                    f'levels in_index={_plain(levels)} of the backbone'
                    + (f' (arch={arch!r})' if isinstance(arch, str) else '')
                    + f' have {_plain(found)} channels.\n'
                    f'  to mend it: in_channels={_plain(found)} in {name}, or the arch that fits.'
                )


def _plain(numbers: Sequence[int]) -> str:
    """As it stands in a config: a list, or the number where there is one."""
    return str([*numbers] if len(numbers) > 1 else numbers[0])


def _check_cls(cfg: Config, dataset: dict, place: str) -> None:
    folder = _path(dataset, dataset.get('split') or dataset.get('data_prefix') or '')
    _check_exists(cfg, folder, 'picture folder', place, dataset)
    names = sorted(p.name for p in Path(folder).iterdir() if p.is_dir())
    # mmpretrain's ImageNet finds its own list of labels beside the folders.
    labels = _path(dataset, dataset.get('ann_file') or f'meta/{dataset.get("split")}.txt')
    if not names and not os.path.isfile(labels):
        flat = len(_files_of(folder))
        raise UserError(
            f'{folder} has no class folders'
            + (f', but {flat} pictures lie in it directly' if flat else '')
            + '.\n  expected: one folder per class with its pictures, '
            f'{folder}/<class>/<picture>.\n  to mend it: move the pictures into class folders (for '
            "ImageNet's validation set, the class of each picture is in its ground-truth list)."
        )
    if names:
        _check_num_classes(cfg, names, place)
    _check_pictures(
        [file for name in names for file in _files_of(os.path.join(folder, name))], place
    )


def _path(dataset: dict, path: Any) -> str:
    return os.path.join(dataset.get('data_root') or '', path if isinstance(path, str) else '')


def _check_exists(cfg: Config, path: str, what: str, place: str, dataset: dict) -> None:
    if os.path.exists(path):
        return
    root = (dataset.get('data_root') or os.path.dirname(path)).rstrip('/')
    task = task_of(cfg)
    link = os.path.islink(root) and not os.path.exists(root)
    raise UserError(
        f'the {what} of {place.partition(".")[0]} is missing.\n'
        f'  looked for: {os.path.abspath(path)}\n'
        + (f'  {root} is a link to {os.readlink(root)}, which does not exist\n' if link else '')
        + f'  to mend it: ln -s /path/to/your/{os.path.basename(root)} {root}\n'
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


def _classes(dataset: dict) -> Optional[tuple[str, ...]]:
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


def _check_num_classes(cfg: Config, classes: Sequence[str], place: str) -> None:
    heads = {
        node['num_classes']: node.get('type', 'model')
        for node in walk(cfg.get('model') or {})
        if isinstance(node.get('num_classes'), int)
    }
    for num_classes, head in heads.items():
        if num_classes != len(classes):
            raise UserError(
                f'{head} has num_classes={num_classes}, but the dataset of '
                f'{place.partition(".")[0]} has {len(classes)} classes ({_some(classes)}).\n'
                f'  to mend it: num_classes={len(classes)} in every head of the model, or the data '
                'that the model was made for.'
            )


def _folders(dataset: dict) -> list[str]:
    """The picture folders of any dataset: what its ``data_prefix`` or ``split`` names."""
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    names = prefix.values() if isinstance(prefix, dict) else [prefix]
    return [path for path in (_path(dataset, name) for name in names) if os.path.isdir(path)]


def _files_below(folder: str) -> list[str]:
    return [file for path, _, _ in os.walk(folder, followlinks=True) for file in _files_of(path)]


def _files_of(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.path for e in entries if os.path.splitext(e.name)[1].lower() in _PICTURES)


def _check_pictures(files: list[str], place: str, sample: Optional[int] = SAMPLE) -> None:
    broken = broken_pictures(files, sample=sample)
    if broken:
        raise UserError(
            f'pictures of {place.partition(".")[0]} cannot be read:\n{listing(broken)}\n'
            '  to mend it: fetch these files again, or remove them and their annotations.'
        )


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f', ... {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def _python(names: Sequence[str]) -> str:
    """The names as a user would write them in a config."""
    return repr(tuple(names)) if len(names) <= 6 else f'({", ".join(map(repr, names[:6]))}, ...)'
