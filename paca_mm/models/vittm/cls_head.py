"""ViTTM's classifier for mmpretrain: one head on the memory, one on the process tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.heads import ClsHead
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from .two_heads import TwoHeads

#: What a prediction may be made from.
STREAMS = ('memory', 'process', 'mean')


@MODELS.register_module()
class ViTTMClsHead(TwoHeads, ClsHead):
    """Two classifiers; the loss is the sum of both, the answer the memory's.

    It stands on ``ViTTM(out_type='raw')``, without a neck.

    A training logs ``loss_memory`` and ``loss_process``, and with ``cal_acc`` the accuracy of both. In
    evaluation mmpretrain's ``Accuracy`` sees the predicted stream, and ``paca_mm.ViTTMAccuracy`` the one
    that it is given.

    Args:
        num_classes: Classes.
        in_channels: C of the backbone.
        predict_from: ``'memory'`` (as published), ``'process'``, or ``'mean'`` for the mean of both
            logits.
        **kwargs: Of mmpretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc``, ``init_cfg``. Default
            initialisation: both classifiers zero.

    Raises:
        UserError: (a ValueError) An argument is not one of the above, or the backbone returns
            something else.
    """

    _get_loss: Any  # of ClsHead
    _get_predictions: Any

    def __init__(
        self, num_classes: int, in_channels: int, predict_from: str = 'memory', **kwargs: Any
    ) -> None:
        ClsHead.__init__(self, **kwargs)
        if num_classes < 1:
            raise UserError(f'num_classes={num_classes} must be 1 or more.')
        if predict_from not in STREAMS:
            raise UserError(
                f'predict_from={predict_from!r} is unknown; known: {", ".join(map(repr, STREAMS))}.'
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.predict_from = predict_from
        self._make_layers(in_channels, num_classes)

    def pre_logits(self, feats: Sequence[Any]) -> Tensor:
        """What is classified: (B, C), or (B, 2 C) of the memory and the process tokens."""
        memory, process = self._pooled(feats)
        if self.predict_from == 'mean':
            return torch.cat([memory, process], 1)
        return memory if self.predict_from == 'memory' else process

    def forward(self, feats: Sequence[Any]) -> Tensor:
        """Memory and process tokens (B, H, W, C) of the last block -> logits (B, num_classes)."""
        return self._chosen(*self._logits(feats))

    def loss(self, feats: Sequence[Any], data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        """The losses of both classifiers.

        Args:
            feats: What the backbone returns.
            data_samples: The labels.
            **kwargs: Of the loss module.

        Returns:
            ``loss_memory`` and ``loss_process``; with ``cal_acc`` the accuracies,
            ``memory_accuracy_top-1`` say.
        """
        losses = {}
        for stream, logits in zip(STREAMS, self._logits(feats), strict=False):
            for name, value in self._get_loss(logits, data_samples, **kwargs).items():
                losses[f'loss_{stream}' if name == 'loss' else f'{stream}_{name}'] = value
        return losses

    def predict(self, feats: Sequence[Any], data_samples: list | None = None) -> list:
        """Predictions, with the scores of each stream beside those that are chosen.

        Returns:
            A sample for each image: ``pred_score`` and ``pred_label`` of ``predict_from``,
            ``memory_score`` and ``process_score``.
        """
        memory, process = self._logits(feats)
        samples = self._get_predictions(self._chosen(memory, process), data_samples)
        for sample, *scores in zip(samples, memory.softmax(1), process.softmax(1), strict=True):
            for stream, score in zip(STREAMS, scores, strict=False):
                sample.set_field(score, f'{stream}_score')
        return samples

    def _logits(self, feats: Sequence[Any]) -> tuple[Tensor, Tensor]:
        memory, process = self._pooled(feats)
        return self.fc(memory), self.process_fc(process)

    def _chosen(self, memory: Tensor, process: Tensor) -> Tensor:
        if self.predict_from == 'mean':
            return (memory + process) / 2
        return memory if self.predict_from == 'memory' else process

    def _pooled(self, feats: Sequence[Any]) -> tuple[Tensor, Tensor]:
        if isinstance(feats[-1], Tensor):
            raise UserError(
                f'ViTTMClsHead reads memory and process tokens, but it was given one tensor, '
                f"{tuple(feats[-1].shape)}.\n  to fix it: out_type='raw' in the backbone, and neck=None."
            )
        memory, process = feats[-1]
        return self._pool_memory(memory), self._pool_process(process)
