"""Eight bits, and what they cost: the same test, by the file of float32 and by that of int8."""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor

from paca_mm.datasets.images import find_images
from paca_mm.deploy.meta import Meta
from paca_mm.deploy.runtime import Exported, session_of
from paca_mm.engine.checks import check_config
from paca_mm.engine.tasks import task_for
from paca_mm.errors import UserError
from paca_mm.files import replacing

from .model import Leaving, leaving
from .onnx_file import save

#: How many images to calibrate on, and how many points the task's metric may drop by; by default.
NUM_IMAGES = 64
MAX_DROP = 1.0


@dataclass(frozen=True)
class Report:
    """What quantising cost.

    Attributes:
        kind: ``'dynamic'`` or ``'static'``.
        images: Of the test.
        agreement: The share of labels, of images or of pixels, that are those of float32.
        metric: What the task is judged by.
        float32: Its value, 0 to 100.
        int8: Its value, 0 to 100.
    """

    kind: str
    images: int
    agreement: float
    metric: str
    float32: float
    int8: float

    @property
    def drop(self) -> float:
        """How many points are lost; negative where some are won."""
        return self.float32 - self.int8

    def __str__(self) -> str:
        return (
            f'int8 ({self.kind}) on {self.images} images: {self.agreement:.2%} of the labels are those '
            f'of float32; {self.metric} {self.float32:.2f} -> {self.int8:.2f}'
        )


def require_int8(cfg: Config, args: argparse.Namespace) -> None:
    """See that there can be a report, before there is work to lose.

    Raises:
        UserError: Of this model there is none, or the test's data is missing.
    """
    if task_for(cfg).name == 'det' or args.part not in (None, 'model') or args.output != 'logits':
        raise UserError(
            '--int8 comes with a report on labels and accuracy, so it takes a whole classifier or '
            'segmentor with --output logits.\n  to fix it: leave out --part, --output and, of a '
            'detector, --int8.'
        )
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as e:
        raise UserError(
            f'--int8 needs the quantisation of onnxruntime, which cannot be imported ({e}).\n'
            '  to fix it: pip install onnxruntime onnx sympy'
        ) from e
    check_config(cfg, ['test'])


def calibration_images(folder: str, most: int) -> list[str]:
    """The images of a folder, or some of them, evenly taken.

    Raises:
        UserError: There are none.
    """
    try:
        found = find_images(folder)
    except UserError as e:
        raise UserError(
            f'--calibrate {folder}: there are no images to measure ranges on.\n  {e}'
        ) from None
    step = max(len(found) / most, 1)
    return [found[int(i * step)] for i in range(min(most, len(found)))]


def quantise(
    cfg: Config,
    args: argparse.Namespace,
    settings: dict[str, Any],
    model: Leaving,
    file: Path,
    images: Sequence[str],
    say: Callable[[str], None] = print,
) -> Report:
    """Write the second file and its report.

    Args:
        cfg: The config.
        args: Of the command.
        settings: Of :func:`.model.leaving`.
        model: What the file of float32 was made of.
        file: That file.
        images: To calibrate on.
        say: Takes each line.

    Raises:
        UserError: The task's metric drops by more than ``args.max_drop``; there is no int8 file then.
        NotTheModel: See :func:`.command.write`.
    """
    from .command import write

    target = file.with_suffix('.int8.onnx')
    # Below 17 a norm is many operators, whose ranges nobody wants.
    with tempfile.TemporaryDirectory(prefix='paca_mm_int8_') as folder:
        source = file
        if args.int8 == 'dynamic' and not args.plain:
            source = Path(folder, 'linear.onnx')
            linear = leaving(cfg, form='linear', **settings)
            write(linear, source, model.meta.exporter, args.opset, say=lambda line: None)
        made = Path(folder, 'int8.onnx')
        if args.int8 == 'dynamic':
            dynamic(source, made)
        else:
            _static(source, made, Exported(source), images)
        import onnx

        graph = onnx.load(str(made))
        meta = Meta(**{**asdict(model.meta), 'int8': args.int8})
        say(f'\nint8 ({args.int8}): testing both files')
        found = report(cfg, model, file, made, args.int8)
        allowed = MAX_DROP if args.max_drop is None else args.max_drop
        if found.drop > allowed:
            target.unlink(missing_ok=True)
            raise UserError(
                f'{found}: a drop of {found.drop:.2f} points, and --max-drop {allowed:g} are '
                'allowed, so there is no int8 file.\n'
                f'  to fix it: {_other(args.int8)}, or allow more.'
            )
        meta.notes = [*model.meta.notes, str(found)]
        save(graph, meta, target)
    with replacing(target.with_suffix('.json'), '--out') as part:
        part.write_text(json.dumps({**asdict(found), 'drop': found.drop}, indent=1))
    say(f'{found}\nsaved {target} ({target.stat().st_size / 1e6:.1f} MB) and {target.stem}.json')
    return found


def _other(kind: str) -> str:
    if kind == 'dynamic':
        return '--int8 static with --calibrate'
    return '--int8 dynamic, or more images to calibrate on (--num-images)'


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to run onnxruntime's own preparation first, which changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


def dynamic(source: Path, target: Path) -> None:
    """Linear layers by eight bits: weights now, activations when they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=['MatMul', 'Gemm'],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def _static(source: Path, target: Path, model: Exported, images: Sequence[str]) -> None:
    """Convolutions and linear layers by eight bits, by ranges measured on images."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(images)

        def get_next(self) -> Any:
            image = next(self.batches, None)
            if image is None:
                return None
            return {'image': model._padded(model.prepare(image))}

    with _quiet():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def report(cfg: Config, model: Leaving, float32: Path, int8: Path, kind: str) -> Report:
    """Test both files on the config's test dataset."""
    headline = task_for(cfg).headline
    answers = [tested(cfg, model, file) for file in (float32, int8)]
    labels = [np.concatenate([x.ravel() for x in found]) for _, found in answers]
    values = [float(metrics[headline]) for metrics, _ in answers]
    agreement = float((labels[0] == labels[1]).mean())
    return Report(kind, len(answers[0][1]), agreement, headline, *values)


def tested(cfg: Config, model: Leaving, file: Path) -> tuple[dict[str, float], list[Any]]:
    """The metrics of a file on the config's test dataset, by the host's own evaluator, and its labels.

    The host prepares the images, resizes the logits and judges; in between, the file runs in the place
    of the model.
    """
    host: Any = model.reference.model
    session = session_of(file, torch.get_num_threads())
    loader_cfg = {**cfg.test_dataloader, 'num_workers': 0, 'persistent_workers': False}
    loader = Runner.build_dataloader(loader_cfg)
    settings = cfg.test_evaluator
    evaluator = Evaluator(settings if isinstance(settings, (list, tuple)) else [settings])
    evaluator.dataset_meta = loader.dataset.metainfo
    labels = []
    with _InPlaceOf(host, model, session), torch.no_grad():
        for batch in loader:
            samples = host.test_step(batch)
            evaluator.process(data_samples=samples, data_batch=batch)
            labels += [_labels(sample) for sample in samples]
    with redirect_stdout(StringIO()):  # the host's tables
        metrics = evaluator.evaluate(len(loader.dataset))
    return metrics, labels


def _labels(sample: Any) -> Any:
    if hasattr(sample, 'pred_sem_seg'):
        return sample.pred_sem_seg.data.numpy()
    return sample.pred_score.argmax().numpy()


class _InPlaceOf:
    """A context in which a host's model asks a file for its logits."""

    def __init__(self, host: Any, model: Leaving, session: Any) -> None:
        self.host, self.model, self.session = host, model, session

    def logits(self, x: Tensor) -> Tensor:
        meta = self.model.meta
        if meta.normalises:  # the host has normalised; the file wants pixels
            if self.model.module.turns:
                x = x[:, [2, 1, 0]]
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (meta.mean, meta.std))
            x = x * std + mean
        (found,) = self.session.run(None, {'image': x.contiguous().numpy()})
        return torch.from_numpy(found)

    def __enter__(self) -> None:
        if self.model.meta.task == 'cls':
            head = self.host.head
            self.host.extract_feat = lambda inputs, *args, **kwargs: inputs
            head.predict = lambda feats, samples=None, **kwargs: head._get_predictions(
                self.logits(feats), samples
            )
            self.changed: list[tuple[Any, str]] = [(self.host, 'extract_feat'), (head, 'predict')]
        else:
            self.host.encode_decode = lambda inputs, metas: self.logits(inputs)
            self.changed = [(self.host, 'encode_decode')]

    def __exit__(self, *_: Any) -> None:
        for owner, name in self.changed:
            delattr(owner, name)
