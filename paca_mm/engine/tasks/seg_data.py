"""What can be wrong with segmentation's data beyond its files: endings, "no label", sizes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from paca_mm.datasets.faults import FIRST, Fault, Offender
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import SUFFIXES, Size

from ..walk import type_name, walk


def overlooked(made: Any, samples: Sequence[Mapping], folder: str, place: str) -> Iterator[Fault]:
    """Images with another ending than the one that mmseg takes, which it leaves out in silence.

    Args:
        made: The dataset.
        samples: What it lists.
        folder: Of its images.
        place: Where it stands in the config.
    """
    if made.ann_file:
        return  # the list says which images are meant
    used = {
        os.path.abspath(s[key]) for s in samples for key in ('img_path', 'seg_map_path') if key in s
    }
    suffix = made.img_suffix
    left = sorted(
        path
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith('.')
        and name.lower().endswith(SUFFIXES)
        and not name.endswith(suffix)
        and os.path.abspath(path := os.path.join(where, name)) not in used
    )
    if left:
        endings = sorted({os.path.splitext(path)[1] for path in left})
        yield Fault(
            'overlooked-image',
            folder,
            f'has {len(left)} images ending in {", ".join(endings)}, which {place.partition(".")[0]} '
            f'leaves out: it takes the {len(samples)} that end in {suffix!r}, in small and capital '
            'letters as written.',
            f'give all images the ending {suffix!r} (rename, or convert them), or one dataset for each '
            "ending, in a ConcatDataset: img_suffix='...'.",
            count=len(left),
            first=tuple(Offender(os.path.relpath(path, folder), path) for path in left[:FIRST]),
            fatal=False,
        )


def check_ignore_index(cfg: Config, ignore_index: int, place: str) -> Iterator[Fault]:
    """Heads and metric must leave out what the dataset calls "no label"."""
    phase = place.partition('_')[0]
    if phase == 'train':
        heads = [cfg.model.get(name) for name in ('decode_head', 'auxiliary_head')]
        nodes = [node for node in walk(heads) if 'num_classes' in node and 'type' in node]
    else:
        nodes = [n for n in walk(cfg.get(f'{phase}_evaluator')) if type_name(n) == 'IoUMetric']
    for node in nodes:
        if (number := node.get('ignore_index', 255)) != ignore_index:
            yield Fault(
                'ignore-index',
                f'{type_name(node)} of the config',
                f'has ignore_index={number}, but the dataset of {place.partition(".")[0]} calls '
                f'"no label" {ignore_index}.',
                f'ignore_index={ignore_index} in it as well, or in none of them (255).',
            )


def check_batch(
    cfg: Config, dataset: Mapping, files: Sequence[str], place: str, glance: Glance
) -> Iterator[Fault]:
    """Images of unlike sizes cannot be validated in one batch: mmseg does not pad them."""
    phase = place.partition('_')[0]
    batch = (cfg.get(f'{phase}_dataloader') or {}).get('batch_size') or 1
    if phase == 'train' or batch < 2:
        return
    looked_at = glance.some(files)
    sizes = [
        (_resized(size, dataset.get('pipeline') or []), path)
        for path, size in zip(looked_at, glance.sizes(looked_at), strict=True)
        if size
    ]
    known = {size: path for size, path in sizes if size}
    if len(known) > 1:
        yield Fault(
            'unlike-sizes',
            f'{phase}_dataloader',
            f'has batch_size={batch}, but its images do not have one size, and mmseg pads none in '
            f'validation: {len(known)} sizes among {len(looked_at)} images.',
            f'batch_size=1 in {phase}_dataloader, or Resize(scale=(width, height), '
            'keep_ratio=False) in its pipeline.',
            count=len(known),
            first=tuple(
                Offender(f'{path}: {size[0]} x {size[1]}', path)
                for size, path in list(known.items())[:FIRST]
            ),
        )


#: Steps of a pipeline that leave the size of an image as it is.
_SIZELESS = ('LoadImageFromFile', 'LoadAnnotations', 'CheckLabels', 'PackSegInputs')


def _resized(size: Size, pipeline: Sequence[Any]) -> tuple[int, int] | None:
    """Width and height behind a pipeline; None if one of its steps is not known here."""
    width, height = size.width, size.height
    for step in pipeline:
        name = type_name(step)
        if name == 'Resize' and isinstance(step.get('scale'), (list, tuple)):
            scale = step['scale']
            if step.get('keep_ratio'):
                # As mmcv: the long side within the larger number, the short one within the smaller.
                ratio = min(max(scale) / max(width, height), min(scale) / min(width, height))
                width, height = int(width * ratio + 0.5), int(height * ratio + 0.5)
            else:
                width, height = scale
        elif name not in _SIZELESS:
            return None
    return width, height
