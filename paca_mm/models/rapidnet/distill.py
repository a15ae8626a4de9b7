"""Hard distillation in mmpretrain: a classifier that asks a teacher what it sees in the same images."""

import copy as copying
from typing import Any

import torch
import torch.nn as nn
from mmengine.registry import DefaultScope
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor

from paca_mm.checkpoint.load import load_whole
from paca_mm.checkpoint.read import read_checkpoint
from paca_mm.errors import UserError
from paca_mm.registry import MODELS


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with a teacher, for a head whose loss takes its logits.

    The teacher sees the images that the model sees, mixed as they are and normalised in the teacher's
    own way. It is never trained, and no part of the state dict, nor of what an optimizer or EMA gets.
    It is made when training starts; evaluation does without it.

    Args:
        *args: Of ``ImageClassifier``.
        teacher: What teaches: the config of a model that mmpretrain can build (``TimmClassifier``
            makes any of timm's), or the name of a model of mmpretrain, or of a config file. Default:
            none; this is then ``ImageClassifier``.
        teacher_checkpoint: Its weights: a file, a URL, or True for those that mmpretrain names for
            a model given by name. None where the config brings them (``pretrained``, ``init_cfg``).
        **kwargs: Of ``ImageClassifier``.

    Raises:
        UserError: (a ValueError) The head has no second head, the teacher has no weights, or, when
            training starts, another number of classes.
    """

    def __init__(
        self,
        *args: Any,
        teacher: dict | str | None = None,
        teacher_checkpoint: str | bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.teacher_cfg = teacher
        self.teacher_checkpoint = teacher_checkpoint
        self._teacher = _Aside()
        if teacher is not None:
            self._check_teacher()

    def _check_teacher(self) -> None:
        if not getattr(self.head, 'distillation', False):
            raise UserError(
                f'a teacher is given, but the head ({type(self.head).__name__}) has no second head to '
                'learn from it.\n  to fix it: head=dict(distillation=True), or teacher=None.'
            )
        config = self.teacher_cfg
        brings = isinstance(config, dict) and (config.get('pretrained') or config.get('init_cfg'))
        if not self.teacher_checkpoint and not brings:
            raise UserError(
                'the teacher has no weights, and a random teacher teaches nothing.\n'
                "  to fix it: teacher_checkpoint='file or URL', or pretrained=True in a teacher of "
                'type TimmClassifier.'
            )

    def init_weights(self) -> None:
        """Initialise the model, and make the teacher: a Runner calls it before training."""
        super().init_weights()
        if self.teacher_cfg is not None:
            self._get_teacher()

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """The head's losses of a batch, with the teacher's logits if there is a teacher.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: The labels.
        """
        if self.teacher_cfg is None:
            return super().loss(inputs, data_samples)
        feats = self.extract_feat(inputs)
        return self.head.loss(feats, data_samples, teacher=self._teacher_logits(inputs))

    def _teacher_logits(self, inputs: Tensor) -> Tensor:
        """The teacher's logits, (B, num_classes)."""
        teacher = self._get_teacher().to(inputs.device)
        with torch.no_grad():
            logits = teacher(_renormalised(inputs, self.data_preprocessor, teacher), mode='tensor')
        self._check_classes(logits.shape[1])
        return logits

    def _get_teacher(self) -> nn.Module:
        if self._teacher.module is None:
            teacher = _build(self.teacher_cfg, self.teacher_checkpoint)
            if (count := _num_classes(teacher)) is not None:
                self._check_classes(count)
            self._teacher.module = teacher.eval().requires_grad_(False)
        return self._teacher.module

    def _check_classes(self, found: int) -> None:
        if found != self.head.num_classes:
            raise UserError(
                f'the teacher knows {found} classes, but the model is to learn '
                f'{self.head.num_classes}: the numbers of the classes would not mean the same.\n'
                '  to fix it: a teacher that was trained on the same classes, or '
                '--cfg-options model.teacher=None to train without one.'
            )

    def switch_to_deploy(self, copy: bool = False) -> 'DistilledClassifier':
        """Fold what backbone and head can fold; see the backbone's.

        Args:
            copy: Leave this model as it is and fold a copy.

        Returns:
            The folded model.
        """
        model = copying.deepcopy(self) if copy else self
        for part in (model.backbone, model.head):
            if hasattr(part, 'switch_to_deploy'):
                part.switch_to_deploy()
        return model.eval()


class _Aside:
    """Holds a module that is no part of the one that holds it: no parameters, no keys, no copies."""

    def __init__(self) -> None:
        self.module: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> '_Aside':
        return self


def _build(config: dict | str | None, checkpoint: str | bool | None) -> nn.Module:
    """A teacher with its weights."""
    if isinstance(config, str):
        from mmpretrain import get_model  # it imports all of mmpretrain

        try:
            checkpoint = _published(config) if checkpoint is True else checkpoint
            model = get_model(config)
        except UserError:
            raise
        except (ValueError, FileNotFoundError) as e:
            raise UserError(
                f'teacher={config!r} is no model of mmpretrain and no config file: {e}'
            ) from e
    else:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MMPRETRAIN_MODELS.build(config)
    if isinstance(checkpoint, str):
        load_whole(model, read_checkpoint(checkpoint), checkpoint, strict=True).log()
    elif getattr(model, 'init_cfg', None):
        model.init_weights()
    return model


def _published(name: str) -> str:
    """The address of the weights that mmpretrain names for a model."""
    from mmpretrain.apis import ModelHub

    weights = None if name.endswith('.py') else ModelHub.get(name).weights
    if not weights:
        raise UserError(
            f'teacher_checkpoint=True, but mmpretrain names no weights for teacher={name!r}.\n'
            "  to fix it: teacher_checkpoint='file or URL'."
        )
    return weights


def _num_classes(model: Any) -> int | None:
    """How many classes a classifier says that it has: mmpretrain's head, or timm's model."""
    for part in (getattr(model, 'head', None), getattr(model, 'model', None)):
        count = getattr(part, 'num_classes', None)
        if isinstance(count, int):
            return count
    return None


def _renormalised(inputs: Tensor, own: Any, teacher: Any) -> Tensor:
    """The model's normalised images as the teacher's preprocessor would give them.

    A teacher without a normalisation (timm's) is taken to have the model's.
    """
    other: Any = getattr(teacher, 'data_preprocessor', None)
    if not (_normalises(other) and _normalises(own)):
        return inputs
    device = inputs.device
    mean, std = own.mean.to(device), own.std.to(device)
    other_mean, other_std = other.mean.to(device), other.std.to(device)
    same_order = own.to_rgb == other.to_rgb
    if same_order and torch.equal(mean, other_mean) and torch.equal(std, other_std):
        return inputs
    pixels = inputs * std + mean
    return ((pixels if same_order else pixels.flip(1)) - other_mean) / other_std


def _normalises(preprocessor: Any) -> bool:
    return bool(getattr(preprocessor, '_enable_normalize', False))
