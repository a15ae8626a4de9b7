"""RapidNet's classifier for mmpretrain: a hidden layer and two heads, the second a teacher's pupil."""

import copy as copying
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.models.heads import ClsHead
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.registry import MODELS

from .two_heads import TwoHeads


@MODELS.register_module()
class RapidNetClsHead(TwoHeads, ClsHead):
    """1x1 convolution, norm, GELU, and two linear heads; the answer is the mean of both.

    In training the first head learns the labels and the second the class that a teacher names (hard
    distillation): loss = (1 - alpha) * loss(first, labels) + alpha * CE(second, argmax teacher). The
    teacher is :class:`.distill.DistilledClassifier`'s. Without a teacher the second head learns the
    labels too, by the same loss, and the log says so.

    Args:
        num_classes: Classes.
        in_channels: C of the backbone's last map, pooled.
        hidden_channels: D: 512 for Ti, S and M, 768 for B.
        distillation: Whether there is a second head.
        alpha: Weight of the second head's loss.
        norm_cfg: mmcv's words for the norm. Default: BatchNorm.
        deploy: Build the folded form, for weights of :meth:`switch_to_deploy`.
        **kwargs: Of mmpretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc`` (of the first head),
            ``init_cfg``. Default initialisation: the published one.

    Raises:
        UserError: (a ValueError) A number is out of its range.
    """

    _get_loss: Any  # of ClsHead

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        hidden_channels: int = 512,
        distillation: bool = True,
        alpha: float = 0.5,
        norm_cfg: dict | None = None,
        deploy: bool = False,
        **kwargs: Any,
    ) -> None:
        ClsHead.__init__(self, **kwargs)
        if num_classes < 1:
            raise UserError(f'num_classes={num_classes} must be 1 or more.')
        if not 0 <= alpha <= 1:
            raise UserError(f'alpha={alpha} must be from 0 to 1: it weighs the second head.')
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.distillation = distillation
        self.alpha = alpha
        self.deploy = False
        self._said = False
        self._make_layers(in_channels, hidden_channels, num_classes, distillation, norm_cfg)
        if deploy:
            self.switch_to_deploy()

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """The pooled last map, (B, C) of several -> the hidden layer (B, D)."""
        return self._hide(feats[-1]).flatten(1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """The pooled last map, (B, C) of several -> logits (B, num_classes), the mean of both heads."""
        return self._mean(self._hide(feats[-1]))

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: list,
        teacher: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """The losses of both heads, weighted.

        Args:
            feats: The pooled last map, (B, C) of several.
            data_samples: The labels.
            teacher: The teacher's logits, (B, num_classes).
            **kwargs: Of the loss module.

        Returns:
            ``loss`` and, with a second head, ``loss_dist``; with ``cal_acc`` the accuracies.
        """
        hidden = self._hide(feats[-1])
        losses = self._get_loss(self.fc(hidden).flatten(1), data_samples, **kwargs)
        if self.fc_dist is None:
            return losses
        second = self.fc_dist(hidden).flatten(1)
        if teacher is not None:
            loss = F.cross_entropy(second, teacher.argmax(1))
        else:
            self._say_once()
            loss = self._get_loss(second, data_samples, **kwargs)['loss']
        losses['loss'] = (1 - self.alpha) * losses['loss']
        losses['loss_dist'] = self.alpha * loss
        return losses

    def _say_once(self) -> None:
        if not self._said:
            print_log(
                'RapidNetClsHead has no teacher: its second head is trained on the labels, as the first '
                "one (model=dict(type='paca_mm.DistilledClassifier', teacher=...) gives it one).",
                logger='current',
            )
            self._said = True

    def switch_to_deploy(self, copy: bool = False) -> 'RapidNetClsHead':
        """Fold the norm, and both heads into the one that is their mean; see the backbone's.

        Args:
            copy: Leave this head as it is and fold a copy.

        Returns:
            The folded head.
        """
        head = copying.deepcopy(self) if copy else self
        head._fold()
        head.deploy = True
        return head.eval()

    def train(self, mode: bool = True) -> 'RapidNetClsHead':
        """Set the mode.

        Raises:
            UserError: A folded head is asked to train.
        """
        if mode and self.deploy:
            raise UserError(
                'RapidNetClsHead is in deploy mode: its norm and its second head are folded into other '
                'layers, and without them it does not train.\n'
                '  to fix it: deploy=False in the head, with the weights from before '
                'switch_to_deploy(); switch_to_deploy(copy=True) leaves a model that trains.'
            )
        super().train(mode)
        return self
