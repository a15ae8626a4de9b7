"""What any backbone of an OpenMMLab host does beside its forward pass."""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, ClassVar

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from paca_mm.checkpoint.channels import adapt_channels
from paca_mm.checkpoint.layout import KeyLayout
from paca_mm.checkpoint.load import load_pretrained
from paca_mm.errors import UserError

from .pretrained import is_pretrained, pretrained_init


class Backbone(BaseModule):
    """Checkpoints in either layout, freezing, ``norm_eval``, layer depth, checks of arguments.

    A subclass sets ``layout``, calls :meth:`_settle` at the end of its constructor, and says what
    its stages are made of (:meth:`_stage_modules`) and how deep a parameter lies
    (:meth:`_layer_of`).

    Args:
        num_stages: Stages of the arch.
        in_channels: Channels of the image.
        out_indices: Stages to return, counted from 0; negative ones count from the end.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1 to i.
        norm_eval: Keep BatchNorms in eval mode while training.
        with_cp: Recompute in the backward pass.
        drop_path_rate: Stochastic depth, to be checked.
        init_cfg: See :meth:`init_weights`.
        pretrained: A file or URL: the same as ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
            Segmentors of mmseg hand their own ``pretrained`` on under this name.

    Attributes:
        out_indices: Ascending, none negative.
        num_stages: The stages that are built: those that ``out_indices`` needs.
        embed_dims: Channels of every stage of the arch; a subclass sets it.
        depths: The blocks of each stage that is built; a subclass sets it.

    Raises:
        UserError: (a ValueError) An argument is out of its range, or ``init_cfg`` and ``pretrained``
            name different weights.
    """

    layout: ClassVar[KeyLayout]
    embed_dims: Sequence[int]
    depths: Sequence[int]
    is_init: bool  # mmengine's: weights are in place, do not initialise them

    #: Of the names and shapes in our state dict. Raised together with an entry in `_upgrade`.
    _version = 1

    def __init__(
        self,
        num_stages: int,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(pretrained_init(init_cfg, pretrained))
        _check(num_stages, out_indices, frozen_stages, drop_path_rate)
        self.in_channels = in_channels
        self.out_indices = tuple(sorted(i % num_stages for i in out_indices))
        self.num_stages = self.out_indices[-1] + 1
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels of the image apart the positions of each stage's map are."""
        return tuple(4 * 2**i for i in range(len(self.embed_dims)))

    def _settle(self) -> None:
        """The end of a constructor: freeze what is to be frozen."""
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """The modules of the stem (0) or of a stage (1, 2, ...), as ``frozen_stages`` counts."""
        raise NotImplementedError

    def _layer_of(self, name: str) -> int | None:
        """The layer of one of this backbone's parameters; None for none in particular."""
        raise NotImplementedError

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(
                f'{type(self).__name__}(in_channels={self.in_channels}) reads (B, '
                f'{self.in_channels}, H, W), but it was given {tuple(x.shape)}.'
            )

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, or apply its other initialisers.

        Without ``init_cfg`` nothing is left to do: the constructor has applied the published
        initialisation. Weights that were loaded, here or by ``load_state_dict``, are never
        initialised again, so they survive ``Runner.train()``.
        """
        if self.is_init:
            return
        inits: Any = self.init_cfg
        inits = inits if isinstance(inits, (list, tuple)) else [inits]
        weights = next((init for init in inits if is_pretrained(init)), None)
        if weights is not None:  # all parameters, so that no other initialiser matters
            load_pretrained(self, weights.get('checkpoint'), weights.get('prefix')).log()
        elif self.init_cfg:
            super().init_weights()
        self.is_init = True

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        """Accept the official keys as well as ours, under any prefix, and those of older versions.

        Where a training starts from a model's ``init_cfg``, weights of RGB images are adapted to
        other channels. Elsewhere nobody says whether the numbers must be those of the file.
        """
        if any(key.startswith(prefix) for key in state_dict):
            version = local_metadata.get('version') or 1  # safetensors files have none
            if version > self._version:
                raise UserError(
                    f'the checkpoint was made by a newer paca_mm: its {type(self).__name__} has '
                    f'version {version} of the keys, this one reads up to version {self._version}.\n'
                    '  to fix it: install the newer paca_mm.'
                )
            self.layout.to_ours(state_dict, prefix, bare=True)
            for older in range(version, self._version):
                self._upgrade(state_dict, prefix, older)
            if hasattr(self, '_params_init_info'):  # mmengine's, while weights are initialised
                own = {prefix + key: value for key, value in self.state_dict().items()}
                for change in adapt_channels(state_dict, own):
                    print_log(str(change), logger='current')
            self.fit_state(state_dict, prefix)
            self.is_init = True
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def fit_state(self, state: MutableMapping[str, Any], prefix: str = '') -> None:
        """Bring what depends on the size of the images to that of this model: nothing, as a rule.

        It is called before the shapes of a checkpoint are compared with those of the model.

        Args:
            state: A state dict with our names, changed in place.
            prefix: What stands before the backbone's keys.
        """

    def _upgrade(self, state_dict: dict, prefix: str, version: int) -> None:
        """Bring keys of ``version`` to the next one, in place; called when an older file is read."""
        raise NotImplementedError

    @classmethod
    def _checkpoint_filter(cls, state_dict: dict, prefix: str, *args: Any) -> None:
        """What mmpretrain's ``ImageClassifier`` calls first: it takes official files as they are."""
        cls.layout.classifier_to_ours(state_dict, prefix)

    def train(self, mode: bool = True) -> 'Backbone':
        """Set the mode, but leave frozen parts (and BatchNorms under ``norm_eval``) in eval mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [m for stage in range(self.frozen_stages + 1) for m in self._stage_modules(stage)]

    def no_weight_decay(self) -> set[str]:
        """The names of parameters besides norms, biases and vectors that do not decay: none."""
        return set()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The depth of a parameter, for layer-wise learning-rate decay.

        Args:
            param_name: As in ``model.named_parameters()``.
            prefix: What stands before this backbone's own names, ``'backbone.'`` say.

        Returns:
            The layer's number and how many there are: 0 is the stem, 1 to sum(depths) the blocks
            (what leads into a stage counts with its first block, its norm with its last), the last
            number all that is not the backbone's.
        """
        num_layers = sum(self.depths) + 2
        layer = None
        if param_name.startswith(prefix):
            layer = self._layer_of(param_name[len(prefix) :])
        return (num_layers - 1 if layer is None else layer), num_layers


def _check(
    num_stages: int, out_indices: Sequence[int], frozen_stages: int, drop_path_rate: float
) -> None:
    if not 0 <= drop_path_rate < 1:
        raise UserError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1.')
    if not out_indices or any(not -num_stages <= i < num_stages for i in out_indices):
        raise UserError(
            f'out_indices={out_indices!r} must name stages from 0 to {num_stages - 1}, at least one.'
        )
    last = max(i % num_stages for i in out_indices) + 1
    if not -1 <= frozen_stages <= last:
        raise UserError(
            f'frozen_stages={frozen_stages} must be from -1 (nothing) to {last}: that many stages '
            f'are built for out_indices={tuple(out_indices)}.'
        )
