"""The accuracy of one of ViTTM's two classifiers, beside that of the one that predicts."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.evaluation.metrics import Accuracy

from paca_mm.errors import UserError
from paca_mm.registry import METRICS


@METRICS.register_module()
class ViTTMAccuracy(Accuracy):
    """mmpretrain's ``Accuracy`` of one stream's scores: ``process_accuracy/top1`` in the log.

    Args:
        stream: ``'process'`` or ``'memory'``.
        prefix: Of the figures' names. Default: ``'process_accuracy'``, or of the other stream.
        **kwargs: Of ``Accuracy``: ``topk``, ``thrs``, ``collect_device``.

    Raises:
        UserError: (a ValueError) The stream is unknown, or the model has no such scores.
    """

    def __init__(self, stream: str = 'process', prefix: str | None = None, **kwargs: Any) -> None:
        if stream not in ('process', 'memory'):
            raise UserError(f"stream={stream!r} is unknown; known: 'process', 'memory'.")
        super().__init__(prefix=prefix or f'{stream}_accuracy', **kwargs)
        self.stream = stream

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take the scores of the stream from a batch of predictions."""
        key = f'{self.stream}_score'
        if any(key not in sample for sample in data_samples):
            raise UserError(
                f'ViTTMAccuracy: the predictions have no {key}, which paca_mm.ViTTMClsHead gives.\n'
                "  to fix it: type='Accuracy' for a model with another head."
            )
        super().process(
            data_batch, [{**sample, 'pred_score': sample[key]} for sample in data_samples]
        )
