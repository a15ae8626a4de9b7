"""Predictions on single images, for any of the three tasks: drawn, and as plain data."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope

from paca_mm.checkpoint import load_whole, read_checkpoint
from paca_mm.checkpoint.metadata import dataset_meta_in
from paca_mm.datasets.images import fault_of, loader_of
from paca_mm.deploy.predict import drawings_of, store
from paca_mm.environment import require
from paca_mm.errors import UserError
from paca_mm.files import make_folder
from paca_mm.models.common.norms import revert_sync_batchnorm

from .data_checks import datasets_of
from .distributed import device as default_device
from .drawing import Look, Pixels, save
from .mistakes import explained
from .tasks import task_for
from .walk import dataset_class, test_dataset, type_name


class BrokenImage(UserError):
    """An image that cannot be read, while others can."""


class Predictor:
    """A trained model, ready for images.

    Args:
        cfg: The config that the checkpoint was trained with.
        checkpoint: A checkpoint, official or ours. None leaves the model as it is built, with random
            weights.
        device: Where to run; the machine's accelerator by default, or the CPU.

    Raises:
        UserError: The checkpoint cannot be read or is not the config's; there is no such device.

    Example::

        predictor = Predictor(load_config('configs/det/mask_rcnn_paca.py'), 'small.pth')
        record = predictor.predict('street.jpg', drawn='street_drawn.png')
    """

    def __init__(self, cfg: Config, checkpoint: str | None, device: str | None = None) -> None:
        _check_device(device)
        self.task = task_for(cfg)
        require(self.task.scope)
        init_default_scope(cfg.default_scope)
        content = read_checkpoint(checkpoint) if checkpoint is not None else None
        with explained(cfg):
            model = MODELS.build({**cfg.model, 'data_preprocessor': _preprocessor(cfg)})
        # SyncBatchNorm refuses a CPU, and in evaluation it is BatchNorm anyway.
        model = revert_sync_batchnorm(model)
        if checkpoint is not None:
            load_whole(model, content, checkpoint, strict=True)
        self.model: Any = model.to(device or default_device()).eval()
        pipeline = image_pipeline(cfg)
        self.loader = loader_of(pipeline)
        with explained(cfg):
            self.pipeline = Compose(pipeline)
        self.look = Look.of(dataset_meta(cfg, content))

    def predict(
        self, image: str, drawn: str | None = None, score_thr: float = 0.3
    ) -> dict[str, Any]:
        """Predict one image.

        Args:
            image: The file.
            drawn: Where to write the image with the prediction drawn on it, if anywhere.
            score_thr: Least score of a detection that is drawn or returned, 0 to 1.

        Returns:
            Plain data. Detection: ``instances``, each with ``label``, ``class``, ``score``, ``bbox``
            (x1, y1, x2, y2 in pixels) and ``mask`` (COCO run-length encoding). Segmentation:
            ``classes``, each with its ``label``, ``class`` and ``share`` of the pixels.
            Classification: ``top``, the five best with ``label``, ``class`` and ``score``.

        Raises:
            BrokenImage: The image cannot be read.
        """
        sample = self.sample(image)
        if drawn:
            save(self.drawing(image, sample, score_thr), drawn, '--out')
        return {'picture': image, **self.task.record(sample, self.look.classes, score_thr)}

    def sample(self, image: str) -> Any:
        """The host's own prediction of an image, on the CPU.

        Raises:
            BrokenImage: The image cannot be read.
        """
        data = self.load(image)
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([data]))[0].cpu()

    def drawing(self, image: str, sample: Any, score_thr: float = 0.3) -> Pixels:
        """An image with a prediction of :meth:`sample` drawn on it, (H, W, 3), RGB."""
        pixels = mmcv.imread(image, channel_order='rgb', backend=self.loader)
        return self.task.drawn(pixels, sample, self.look, score_thr)

    def load(self, image: str) -> dict[str, Any]:
        """What the config's pipeline makes of an image: ``inputs`` and ``data_samples``.

        Raises:
            BrokenImage: The image cannot be read.
        """
        _check_image(image, self.loader)
        try:
            return self.pipeline(dict(img_path=image, img_id=0))
        except Exception:
            _check_image(image, self.loader, decode=True)  # damaged inside?
            raise


def _check_image(image: str, loader: str | None, decode: bool = False) -> None:
    if fault := fault_of(image, decode, loader):
        raise BrokenImage(f'the image {os.path.abspath(image)} {fault}.')


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as e:  # torch raises either, by the kind of device
        raise UserError(
            f'the device {device} cannot be used ({str(e).splitlines()[0]}): leave it out to take '
            'the GPU if there is one, or say cpu.'
        ) from None


def _preprocessor(cfg: Config) -> dict | None:
    """mmsegmentation and mmpretrain configs keep it beside the model."""
    return cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')


def image_pipeline(cfg: Config) -> list[dict]:
    """The test pipeline without the ground truth, which a single image does not have."""
    steps = test_dataset(cfg).pipeline
    return [step for step in steps if not type_name(step).endswith('LoadAnnotations')]


def dataset_meta(cfg: Config, checkpoint: Any) -> dict[str, Any]:
    """Class names and palette: the checkpoint's own, or else those of the config's dataset."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    saved = dataset_meta_in(meta) if isinstance(meta, dict) else {}
    dataset, _ = next(datasets_of(cfg.test_dataloader, 'test_dataloader'))
    known = getattr(dataset_class(dataset), 'METAINFO', {})
    return {**known, **(dataset.get('metainfo') or {}), **saved}


def predict_all(
    predictor: Predictor, images: list[str], out_dir: str, score_thr: float
) -> Iterator[dict[str, Any]]:
    """Predict images one by one into ``out_dir``: ``NAME.png`` drawn, and ``predictions.json``.

    Yields:
        Each record as it is done. The JSON file is complete after each of them. Of an image that
        cannot be read it is ``picture`` and ``fault``, which is not in the file.

    Raises:
        UserError: A drawing would take the place of an image.
    """
    out = Path(out_dir)
    drawings = drawings_of(images, out)
    make_folder(out, '--out')
    records: list[dict[str, Any]] = []
    store(records, out)
    for image, drawn in zip(images, drawings, strict=True):
        try:
            record = predictor.predict(image, drawn, score_thr)
        except BrokenImage as e:
            yield {'picture': image, 'fault': str(e)}
            continue
        records.append({**record, 'drawn': drawn})
        store(records, out)
        yield records[-1]
