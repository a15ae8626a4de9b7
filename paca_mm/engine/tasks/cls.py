"""Image classification, by mmpretrain."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from paca_mm.datasets.checks import check_depth, check_present
from paca_mm.datasets.faults import FIRST, Fault, Offender
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import images_in, loader_of
from paca_mm.datasets.shapes import CLASSES
from paca_mm.errors import UserError, some_of

from ..data_checks import (
    check_images,
    check_levels,
    check_num_classes,
    datasets_of,
    heads_of,
    is_dataset,
    is_remote,
    made_lazily,
    path_in,
)
from ..drawing import Look, Pixels, lines
from ..walk import type_name
from .base import Task, named


class Classification(Task):
    """A class for every image."""

    name = 'cls'
    scope = 'mmpretrain'
    title = 'classification'
    image_size = (224, 224)
    shapes_config = 'configs/cls/paca_shapes.py'
    shapes_classes = CLASSES
    headline = 'accuracy/top1'
    demo_goal = 90.0

    def check_dataset(
        self, cfg: Config, dataset: dict, place: str, glance: Glance
    ) -> Iterator[Fault]:
        check_levels(cfg)
        if is_remote(dataset):
            return
        try:
            from mmpretrain.datasets import CustomDataset
        except ImportError:
            return  # building the model says what is missing

        if not is_dataset(dataset, CustomDataset):
            return  # a path of the user's own, from files to classes
        try:
            made = made_lazily(dataset)
        except AssertionError as e:  # split='vall', say
            raise UserError(f'{place} is no dataset as it stands: {e}') from e
        folder = made.img_prefix
        self.require_path(folder, 'image folder', place, dataset)
        if made.ann_file:  # ImageNet's is found beside the folders where there is one
            self.require_path(made.ann_file, 'list of labels', f'{place}.ann_file', dataset)
            if made.CLASSES:
                check_num_classes(heads_of(cfg.model), made.CLASSES, place)
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
        _check_labels_of(
            cfg, {file['gt_label'] for file in files if 'gt_label' in file}, made.ann_file
        )
        if place == 'train_dataloader.dataset':  # unwrapped, so these are all
            _check_batch(cfg.train_dataloader, len(files), folder)
        paths = [file['img_path'] for file in files]
        if absent := [*check_present(paths, made.ann_file or folder)]:
            yield from absent
            return
        yield from check_images(paths, dataset, place, glance)
        if loader_of(dataset.get('pipeline') or []) == 'pillow':
            yield from check_depth(paths, place.partition('.')[0], glance)
        yield from _check_crop(paths, dataset, place, glance)

    def tta_model(self, model: Any) -> dict[str, Any]:
        return dict(type='AverageClsScoreTTA')

    def draw_into(self, cfg: Config, folder: str) -> None:
        cfg.default_hooks.visualization = dict(type='paca_mm.DrawClassesHook', out_dir=folder)

    def drawn(self, pixels: Pixels, sample: Any, look: Look, score_thr: float) -> Pixels:
        return lines(pixels, self.words(sample, look))

    def words(self, sample: Any, look: Look) -> list[str]:
        """The best classes, each with its score."""
        best = self.record(sample, look.classes, 0.0)['top']
        return [f'{x["class"]} {x["score"]:.2f}' for x in best]

    def record(self, sample: Any, classes: Sequence[str], score_thr: float) -> dict[str, Any]:
        scores, labels = sample.pred_score.topk(min(5, len(sample.pred_score)))
        top = zip(scores.tolist(), labels.tolist(), strict=True)
        return {'top': [{**named(k, classes), 'score': score} for score, k in top]}

    def toy_sample(self, model: Any, meta: Mapping[str, Any]) -> Any:
        """A label."""
        from mmpretrain.structures import DataSample

        return DataSample(metainfo=dict(meta)).set_gt_label(0)


def _check_crop(files: Sequence[str], dataset: dict, place: str, glance: Glance) -> Iterator[Fault]:
    """Images smaller than the crop that is taken of them as they are."""
    crop = _crop_of_whole_images(dataset.get('pipeline') or [])
    if crop is None:
        return
    looked_at = glance.some(files)
    small = [
        Offender(f'{path}: {size.width} x {size.height}', path)
        for path, size in zip(looked_at, glance.sizes(looked_at), strict=True)
        if size and (size.width < crop[0] or size.height < crop[1])
    ]
    if small:
        yield Fault(
            'smaller-than-crop',
            f'images of {place.partition(".")[0]}',
            f'are smaller than the crop of {crop[0]} x {crop[1]}: {len(small)} of {len(looked_at)} '
            'that were looked at. The crops of a batch would not have one size.',
            'a smaller crop_size, or ResizeEdge(scale=...) before it.',
            count=len(small),
            first=tuple(small[:FIRST]),
        )


def _crop_of_whole_images(pipeline: Sequence[Any]) -> tuple[int, int] | None:
    """Width and height of a crop that no step before it makes sure of; None without one."""
    for step in pipeline:
        name = type_name(step)
        if 'Resize' in name or 'Pad' in name:
            return None
        if name in ('RandomCrop', 'CenterCrop') and not (
            step.get('padding') or step.get('pad_if_needed') or step.get('auto_pad')
        ):
            crop = step.get('crop_size')
            return (crop, crop) if isinstance(crop, int) else tuple(crop)
    return None


def _check_class_folders(cfg: Config, made: Any, dataset: dict, place: str) -> None:
    """One folder a class: as many as the head has, and the same for training and validation."""
    folder = made.img_prefix
    names = _class_folders(folder)
    if not names:
        flat = len(images_in(folder))
        raise UserError(
            f'{folder} has no class folders'
            + (f', but {flat} images lie in it directly' if flat else '')
            + '.\n  expected: one folder per class with its images, '
            f'{folder}/<class>/<image>.\n  to fix it: move the images into class folders (for '
            "ImageNet's validation set, the class of each image is in its ground-truth list)."
        )
    check_num_classes(heads_of(cfg.model), names, place)
    if made.CLASSES and len(made.CLASSES) != len(names):
        raise UserError(
            f'{folder} has {len(names)} class folders ({some_of(names)}), but '
            f'{type_name(dataset)} is to have {len(made.CLASSES)} classes.\n'
            "  to fix it, for your own classes: type='CustomDataset' in each dataset, with "
            'data_prefix instead of split and no metainfo.'
        )
    for train, _ in datasets_of(cfg.get('train_dataloader'), 'train_dataloader'):
        other = path_in(train, train.get('data_prefix') or train.get('split') or '')
        if train.get('data_root') != dataset.get('data_root') or not os.path.isdir(other):
            continue
        if odd := sorted({*names} ^ {*_class_folders(other)}):
            raise UserError(
                f'{folder} and {other} do not have the same class folders: {some_of(odd)} '
                f'{"is" if len(odd) == 1 else "are"} in one of them only. A class is numbered by its '
                "folder's place in the alphabet, so the numbers would not mean the same.\n"
                '  to fix it: the same folders in both (one may be empty).'
            )


def _class_folders(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir())


def _check_labels_of(cfg: Config, labels: set[int], ann_file: str) -> None:
    """A list of labels against the heads; folders have been counted."""
    for head in heads_of(cfg.model):
        if wrong := sorted(label for label in labels if not 0 <= label < head.num_classes):
            raise UserError(
                f'{ann_file} holds the class {some_of(wrong)}, but {head.type} has num_classes='
                f'{head.num_classes}: 0 to {head.num_classes - 1}.\n  to fix it: correct the list (it '
                'counts from 0), or num_classes in every head of the model.'
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
