"""Our backbones as citizens of timm: import this module and ``timm.create_model`` knows the rows.

>>> import timm, torch
>>> import paca_mm.timm
>>> model = timm.create_model('paca_tiny', num_classes=10)  # pretrained=True: official weights
>>> model(torch.rand(1, 3, 224, 224)).shape
torch.Size([1, 10])
>>> backbone = timm.create_model('paca_tiny', features_only=True, out_indices=(1, 3))
>>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 224, 320))]
[(1, 192, 28, 40), (1, 384, 7, 10)]

timm (1.0 or newer) is an extra, ``pip install paca_mm[timm]``; nothing else in this package needs it.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch.nn as nn
from torch import Tensor

try:
    from timm.layers import ClassifierHead
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices
except ImportError as e:
    raise ImportError(f"paca_mm.timm needs timm 1.0 or newer ({e}): pip install 'timm>=1.0'") from e

from paca_mm.checkpoint.read import state_dict_of
from paca_mm.families import Catalogue, Family, families, load_member
from paca_mm.models.common.backbone import Backbone


class BackboneClassifier(nn.Module):
    """A classifier with timm's methods around a backbone of ours.

    Its state dict is ``backbone.*`` and ``head.fc.*``, that of mmpretrain's ``ImageClassifier`` with
    our configs, so that checkpoints pass from one to the other.

    Args:
        num_classes: 0 for no classifier.
        in_chans: Channels of the image.
        global_pool: ``'avg'``, ``'max'``, ..., or ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth.
        backbone: Other arguments of the backbone.
    """

    backbone_class: type[Backbone]
    #: The module with the family's own classifier; None for one linear layer.
    head_module: Any = None

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        **backbone: Any,
    ) -> None:
        super().__init__()
        own = getattr(self.head_module, 'ARGUMENTS', {})
        self.backbone = self.backbone_class(
            in_channels=in_chans, drop_path_rate=drop_path_rate, **{**own, **backbone}
        )
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.backbone.embed_dims[-1]
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=f'backbone.stage{i + 1}')
            for i, (channels, stride) in enumerate(
                zip(self.backbone.embed_dims, self.backbone.strides, strict=True)
            )
        ]
        self.head: Any
        if self.head_module is None:
            self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
            _init_head(self.head)
        else:
            dims = self.backbone.embed_dims
            self.head = self.head_module.Head(dims, num_classes, global_pool, drop_rate)
            self.head_hidden_size = self.head.hidden_size

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head reads: the last stage's map, (B, C, H / 32, W / 32), as a rule."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features, or logits."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of some stages (all by default), normalised whatever ``norm`` says."""
        if output_fmt != 'NCHW':
            raise ValueError(f'output_fmt={output_fmt!r}: the backbone returns NCHW maps only.')
        own = getattr(self.head_module, 'features', None)
        last, maps = own(self.backbone, x) if own else (None, self.backbone(x))
        take, _ = feature_take_indices(len(maps), indices)
        intermediates = [maps[i] for i in take]
        last = maps[-1] if last is None else last
        return intermediates if intermediates_only else (last, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the classifier; the stages stay, since each is the next one's input."""
        take, _ = feature_take_indices(len(self.backbone.embed_dims), indices)
        if prune_head:
            self.reset_classifier(0, '')
        return take

    def get_classifier(self) -> Any:
        """The layer that classes shape; a tuple where there are several."""
        layers = tuple(
            getattr(self.head, name.removeprefix('head.')) for name in self._classifier()
        )
        return layers if self.head_module else layers[0]

    @classmethod
    def _classifier(cls) -> tuple[str, ...]:
        return cls.head_module.CLASSIFIER if cls.head_module else ('head.fc',)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, freshly initialised."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        if self.head_module is None:
            _init_head(self.head)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Which parameters are a layer, for layer-wise learning rates."""
        return self._stage_of if coarse else self._layer_of

    def _layer_of(self, name: str) -> int:
        return self.backbone.get_layer_depth(name, 'backbone.')[0]

    def _stage_of(self, name: str) -> int:
        """0 the stem, 1, 2, ... the stages, then the head."""
        ends = itertools.accumulate(self.backbone.depths, initial=0)
        return bisect_left([*ends], self._layer_of(name))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass."""
        self.backbone.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters besides norms and biases that do not decay."""
        return {f'backbone.{name}' for name in self.backbone.no_weight_decay()}


def _init_head(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _to_ours(state: dict[str, Tensor], model: BackboneClassifier) -> dict[str, Tensor]:
    """An official classifier's (or a bare backbone's) keys as this model's."""
    layout = model.backbone.layout
    state = state_dict_of(state, 'the checkpoint', layout.prefer)
    layout.to_ours(state)
    return state


def _cfg(
    catalogue: Catalogue, row: str, classifier: tuple[str, ...], first_convs: Sequence[str]
) -> dict[str, Any]:
    # timm adapts these to other image channels, as paca_mm.checkpoint does.
    first_conv = tuple(f'backbone.{name}' for name in first_convs)
    return dict(
        url=catalogue.weights('cls', row) or '',
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.9,
        interpolation='bicubic',
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_conv=first_conv if len(first_conv) > 1 else first_conv[0],
        classifier=classifier if len(classifier) > 1 else classifier[0],
        license=catalogue.license,
        paper_ids=catalogue.paper,
    )


def _register(family: Family, cls: type[BackboneClassifier], row: str) -> Callable[..., nn.Module]:
    # timm reads the name of the function and the module that it stands in.
    name = family.prefix + row
    entry = family.rows[row]

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            cls,
            name,
            pretrained,
            pretrained_filter_fn=_to_ours,
            feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
            **{**entry.recipe, **entry.backbone, **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'The published row {row} of {family.title}.'
    return register_model(create)


__all__ = ['BackboneClassifier']
default_cfgs: dict[str, Any] = {}
for _family in families().values():
    if _family.backbone and _family.catalogue and 'cls' in _family.catalogue.kinds:
        # timm tells models apart by their class.
        _class: Any = type(
            f'{_family.backbone}Classifier',
            (BackboneClassifier,),
            dict(
                backbone_class=load_member(_family.backbone),
                head_module=import_module(_family.timm_head) if _family.timm_head else None,
                __module__=__name__,
            ),
        )
        globals()[_class.__name__] = _class
        __all__.append(_class.__name__)
        default_cfgs |= generate_default_cfgs(
            {
                f'{_family.prefix}{_row}.in1k': _cfg(
                    _family.catalogue,
                    _row,
                    _class._classifier(),
                    _class.backbone_class.layout.first_convs,
                )
                for _row in _family.rows
            }
        )
        for _row in _family.rows:
            globals()[_family.prefix + _row] = _register(_family, _class, _row)
