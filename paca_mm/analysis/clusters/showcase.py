"""One picture of a trained model: an image, its prediction, and the clusters below it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from numpy.typing import NDArray

from paca_mm.engine.config import load_config
from paca_mm.engine.drawing import LEAST_SIDE, larger_letters
from paca_mm.engine.walk import test_dataset

from . import sheets
from .colours import MADE_OF, distinct, heat, parts
from .command import Explorer

#: Of how many tested images the one in which most is found is taken.
_LOOKED_AT = 24


def showcase(config: str, checkpoint: str, out: str | os.PathLike, image: str | None = None) -> str:
    """Draw an image, its prediction, what its patches read most, and the cluster that is read most.

    The clusters are those of the first stage that has any, in its last block.

    Args:
        config: The config that the checkpoint was trained with.
        checkpoint: A checkpoint.
        out: The PNG file.
        image: The image; by default that of the first ones of the test set in which most is found.

    Returns:
        The image.

    Raises:
        UserError: The model has no clusters, or a file cannot be read or written.
    """
    explorer = Explorer(load_config(config), checkpoint)
    predictor = explorer.predictor
    if image is None:
        image = max(_tested(explorer), key=lambda file: _found(predictor.predict(file)))
    seen = explorer.see(image)
    view = seen.view(seen.stages()[0])
    pixels = _enlarged(seen.pixels)
    cell = view.cell * len(pixels) / len(seen.pixels)
    reads = parts(pixels, view.read_most(), cell, distinct(len(view.assignment)))
    first = view.ranked()[0]
    made_of = heat(pixels, view.assignment[first], cell, MADE_OF)
    with larger_letters(1.8):
        prediction = predictor.drawing(image, predictor.sample(image), score_thr=0.5)
    stage = f'stage {view.stage + 1}'
    pictures = [
        ('image', pixels),
        ('prediction', prediction),
        (f'the cluster that each patch\nreads most, {stage}', reads),
        (f'the one that all read most:\n{view.mass()[first]:.0%} of the attention', made_of),
    ]
    sheets.save(sheets.row_of(pictures), Path(out), dpi=100)
    return image


def _tested(explorer: Explorer) -> Iterator[str]:
    """The first images of the test set."""
    dataset: Any = DATASETS.build(test_dataset(explorer.cfg))
    for i in range(min(len(dataset), _LOOKED_AT)):
        yield dataset.get_data_info(i)['img_path']


def _found(record: dict[str, Any]) -> tuple[int, float]:
    """How much a prediction has in it: how many classes, how many objects or how sure it is."""
    if 'instances' in record:
        sure = [i for i in record['instances'] if i['score'] > 0.5]
        return len({i['label'] for i in sure}), len(sure)
    if 'classes' in record:
        shares = [c['share'] for c in record['classes'] if c['share'] > 0.01]
        return len(shares), -max(shares, default=0.0)
    return 1, record['top'][0]['score']


def _enlarged(pixels: NDArray) -> NDArray:
    """A small image as large as predictions are drawn, by whole squares for each of its pixels."""
    factor = max(1, round(LEAST_SIDE / max(pixels.shape[:2])))
    return pixels.repeat(factor, 0).repeat(factor, 1)
