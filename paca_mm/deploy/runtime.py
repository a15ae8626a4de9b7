"""Running an exported file: image in, record out, as ``paca-mm infer`` gives it of the checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paca_mm.errors import UserError

from . import images
from .meta import Meta

Array = NDArray[Any]


def session_of(file: str | os.PathLike, threads: int | None = None, profile: str = '') -> Any:
    """An onnxruntime session of a file, on the CPU.

    Args:
        file: The file.
        threads: Of one operation; None for what onnxruntime takes, which is all cores.
        profile: How the file begins that takes the time of every node; none without.

    Raises:
        UserError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as e:
        raise UserError(
            f'an ONNX file is run by onnxruntime, which cannot be imported ({e}).\n'
            '  to fix it: pip install onnxruntime'
        ) from e
    if not Path(file).is_file():
        raise UserError(
            f'there is no file {os.path.abspath(file)}.\n'
            '  to fix it: name one that paca-mm export has written.'
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    # Threads that looked for work between two runs would take the cores of whoever computes then.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            os.fspath(file), options, providers=['CPUExecutionProvider']
        )
    except Exception as e:  # onnxruntime has a class for each way to fail
        raise UserError(
            f'onnxruntime {onnxruntime.__version__} cannot read {file}: {_first_line(e)}\n'
            '  to fix it: export it again, with a lower --opset if this onnxruntime is older.'
        ) from e


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load(file: str | os.PathLike, threads: int | None = None) -> 'Exported':
    """Load a file that ``paca-mm export`` has written.

    Args:
        file: The file.
        threads: See :func:`session_of`.

    Raises:
        UserError: It cannot be read, or is not ours.
    """
    return Exported(file, threads)


class Exported:
    """An exported model.

    Args:
        file: The file.
        threads: See :func:`session_of`.

    Attributes:
        meta: What the file says about itself.
    """

    def __init__(self, file: str | os.PathLike, threads: int | None = None) -> None:
        self.file = os.fspath(file)
        self.session = session_of(file, threads)
        self.meta = Meta.of(self.session.get_modelmeta().custom_metadata_map, self.file)

    def __call__(self, image: str | os.PathLike | Array) -> dict[str, Any]:
        """Predict one image.

        Args:
            image: A file, or pixels (H, W, 3), RGB from 0 to 255.

        Returns:
            As a record of ``paca-mm infer``: ``top``, the five best classes with ``label``, ``class``
            and ``score``; or ``classes``, each with its ``label``, ``class`` and ``share`` of the
            pixels. Where the image was a file, ``picture`` is its name.

        Raises:
            UserError: The file is of another kind of model, or it lacks a step of the config.
        """
        record = self.record(self.predict(image))
        return record if isinstance(image, np.ndarray) else {'picture': os.fspath(image), **record}

    def predict(self, image: str | os.PathLike | Array) -> Array:
        """Scores of the classes (K,), or a label for every pixel of the image (H, W).

        Args:
            image: See :meth:`__call__`.
        """
        if self.meta.output == 'maps':
            raise UserError(
                f'{self.file} returns feature maps, which are no predictions.\n'
                '  to fix it: model.run(model.prepare(image)) returns them; paca-mm export without '
                '--part exports a classifier or a segmentor.'
            )
        pixels = self.pixels(image)
        batch = self.prepare(pixels)
        return self._scores(batch) if self.meta.task == 'cls' else self._labels(batch, pixels.shape)

    def record(self, prediction: Array) -> dict[str, Any]:
        """What :meth:`predict` returned, as plain data."""
        if self.meta.task == 'cls':
            best = np.argsort(-prediction, kind='stable')[:5].tolist()
            return {'top': [{**self._named(k), 'score': float(prediction[k])} for k in best]}
        labels, counts = np.unique(prediction, return_counts=True)
        rows = sorted(zip(counts.tolist(), labels.tolist(), strict=True), reverse=True)
        total = prediction.size
        return {'classes': [{**self._named(int(k)), 'share': n / total} for n, k in rows]}

    def _named(self, label: int) -> dict[str, Any]:
        classes = self.meta.classes
        return {'label': label, 'class': classes[label] if label < len(classes) else str(label)}

    def run(self, batch: Array) -> list[Array]:
        """The outputs of a batch (B, 3, H, W), float32: what :meth:`prepare` makes.

        Raises:
            UserError: The file is bound to another size.
        """
        self._check_size(batch.shape)
        feed = {self.session.get_inputs()[0].name: np.ascontiguousarray(batch, np.float32)}
        return self.session.run(None, feed)

    def pixels(self, image: str | os.PathLike | Array) -> images.Pixels:
        """The pixels of a file, (H, W, 3), RGB; an array stays."""
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f'an image is (height, width, 3), RGB, but it is {image.shape}.')
            return image
        if not os.path.isfile(image):
            raise UserError(f'there is no image {os.path.abspath(image)}.')
        return images.decoded(os.fspath(image), self.meta.pipeline or ())

    def prepare(self, image: str | os.PathLike | Array) -> NDArray[np.float32]:
        """The input of one image, (1, 3, H, W): resized, cut, normalised (unless the file does it).

        Raises:
            UserError: The config's pipeline has a step that the runtime lacks.
        """
        meta = self.meta
        if meta.pipeline is None:
            raise UserError(
                f'images of {self.file} are prepared by {meta.lacks}, which the runtime lacks.\n'
                '  to fix it: prepare them as the config says, and call model.run(batch).'
            )
        pixels = images.prepared(self.pixels(image), meta.pipeline)
        return self.batch(pixels)

    def batch(self, pixels: Array) -> NDArray[np.float32]:
        """Pixels (H, W, 3), RGB from 0 to 255, resized already, as the input (1, 3, H, W)."""
        meta = self.meta
        x: Any = pixels.astype(np.float32)
        if not meta.normalises:
            if meta.channels == 'bgr':
                x = x[..., ::-1]
            x = (x - np.asarray(meta.mean, np.float32)) / np.asarray(meta.std, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])

    def _check_size(self, shape: Sequence[int]) -> None:
        meta, size = self.meta, list(shape[2:])
        if meta.size and size != meta.size:
            raise UserError(
                f'{self.file} is bound to images of {meta.size[0]}x{meta.size[1]}, but the input is '
                f'{size[0]}x{size[1]}.\n  to fix it: resize them, or export with --size {size[0]} '
                f'{size[1]}.'
            )
        if size[0] % meta.multiple or size[1] % meta.multiple:
            raise UserError(
                f'{self.file} takes images whose sides are multiples of {meta.multiple}, but the '
                f'input is {size[0]}x{size[1]}.\n  to fix it: resize or pad them.'
            )

    def _scores(self, batch: Array) -> Array:
        (found,) = self.run(batch)
        if self.meta.output == 'labels':
            raise UserError(
                f'{self.file} returns labels alone, without scores: export it with --output logits.'
            )
        if not self.meta.probabilities:
            raise UserError(
                f'{self.file}: the scores of this classifier are no softmax of its logits; '
                'model.run(model.prepare(image)) returns the logits.'
            )
        logits = found[0].astype(np.float32)
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def _labels(self, batch: Array, shape: Sequence[int]) -> Array:
        """A label for every pixel of the image that the batch was made of."""
        height, width = batch.shape[2:]
        if self.meta.output == 'labels':
            labels = self.run(self._padded(batch))[0][0, :height, :width]
            if labels.shape != tuple(shape[:2]):
                raise UserError(
                    f'{self.file} returns labels of the resized image ({height}x{width}), not of the '
                    f'image itself ({shape[0]}x{shape[1]}).\n  to fix it: export it with --output '
                    'logits, or model.run(model.prepare(image)).'
                )
            return labels
        logits = self._logits(batch)
        logits = images.bilinear(logits, shape[:2], self.meta.align_corners)[0]
        if len(logits) > 1:
            return logits.argmax(0)
        return (1 / (1 + np.exp(-logits[0])) > self.meta.threshold).astype(np.int64)

    def _logits(self, batch: Array) -> Array:
        """(1, K, H, W), by windows where the config tests so."""
        height, width = batch.shape[2:]
        if not self.meta.window:
            return self.run(self._padded(batch))[0][..., :height, :width]
        h_crop, w_crop, h_stride, w_stride = self.meta.window
        total: Any = 0
        count = np.zeros((1, 1, height, width), np.float32)
        for y in range(max(height - h_crop + h_stride - 1, 0) // h_stride + 1):
            for x in range(max(width - w_crop + w_stride - 1, 0) // w_stride + 1):
                bottom, right = (
                    min(y * h_stride + h_crop, height),
                    min(x * w_stride + w_crop, width),
                )
                top, left = max(bottom - h_crop, 0), max(right - w_crop, 0)
                part = np.ascontiguousarray(batch[:, :, top:bottom, left:right])
                found = self.run(self._padded(part))[0][..., : bottom - top, : right - left]
                if count.max() == 0:
                    total = np.zeros((1, found.shape[1], height, width), np.float32)
                total[:, :, top:bottom, left:right] += found
                count[:, :, top:bottom, left:right] += 1
        return total / count

    def _padded(self, batch: Array) -> Array:
        if self.meta.pad == 1:
            return batch
        more = [-side % self.meta.pad for side in batch.shape[2:]]
        value = self.meta.pad_value
        return np.pad(batch, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), constant_values=value)
