"""PaCa-ViT as a citizen of timm: import this module and ``timm.create_model`` knows the rows.

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

from collections.abc import Callable
from typing import Any

import torch.nn as nn
from torch import Tensor

try:
    from timm.layers import ClassifierHead
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices
except ImportError as e:
    raise ImportError(f"paca_mm.timm needs timm 1.0 or newer ({e}): pip install 'timm>=1.0'") from e

from paca_mm.checkpoint.rename import rename_to_ours
from paca_mm.models import PaCaViT
from paca_mm.zoo import ROWS, weights_url


class PaCaViTClassifier(nn.Module):
    """A classifier with timm's methods around :class:`paca_mm.models.PaCaViT`.

    Its state dict is ``backbone.*`` and ``head.fc.*``, that of mmpretrain's ``ImageClassifier`` with
    our configs, so that checkpoints pass from one to the other.

    Args:
        num_classes: 0 for no classifier.
        in_chans: Channels of the image.
        global_pool: ``'avg'``, ``'max'``, ..., or ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth.
        backbone: Other arguments of ``PaCaViT``.
    """

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
        self.backbone = PaCaViT(in_channels=in_chans, drop_path_rate=drop_path_rate, **backbone)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.backbone.embed_dims[-1]
        self.feature_info = [
            dict(num_chs=channels, reduction=4 * 2**i, module=f'backbone.norm{i + 1}')
            for i, channels in enumerate(self.backbone.embed_dims)
        ]
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
        _init_head(self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map, (B, C, H / 32, W / 32)."""
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
            raise ValueError(f'output_fmt={output_fmt!r}: PaCa-ViT returns NCHW maps only.')
        maps = self.backbone(x)
        take, _ = feature_take_indices(len(maps), indices)
        intermediates = [maps[i] for i in take]
        return intermediates if intermediates_only else (maps[-1], intermediates)

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

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, freshly initialised."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        _init_head(self.head)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are a layer, for layer-wise learning rates."""
        return dict(
            stem=r'^backbone\.patch_embed',
            blocks=r'^backbone\.(?:teacher\.)?(?:stage|transition|norm)(\d+)'
            if coarse
            else [
                (r'^backbone\.(?:teacher\.)?stage(\d+)\.(\d+)', None),
                (r'^backbone\.(?:teacher\.)?(?:transition|norm)(\d+)', (99,)),
            ],
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass."""
        self.backbone.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters besides norms and biases that do not decay: none."""
        return set()


def _init_head(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _to_ours(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """An official classifier's (or a bare backbone's) keys as this model's."""
    from paca_mm.checkpoint import classifier_to_ours
    from paca_mm.checkpoint.read import state_dict_of

    state = state_dict_of(state, 'the checkpoint')
    classifier_to_ours(state)
    rename_to_ours(state, 'backbone.')
    return state


def _cfg(url: str | None) -> dict[str, Any]:
    return dict(
        url=url or '',
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.9,
        interpolation='bicubic',
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_conv='backbone.patch_embed.proj.0',
        classifier='head.fc',
        license='mit',
        paper_ids='arXiv:2203.11987',
    )


default_cfgs = generate_default_cfgs(
    {f'paca_{row}.in1k': _cfg(weights_url('cls', row)) for row in ROWS}
)


def _register(row: str) -> Callable[..., nn.Module]:
    # timm reads the name of the function and the module that it stands in.
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            PaCaViTClassifier,
            f'paca_{row}',
            pretrained,
            pretrained_filter_fn=_to_ours,
            feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
            **{'drop_path_rate': 0.5 if row == 'base' else 0.1, **ROWS[row].backbone, **kwargs},
        )

    create.__name__ = create.__qualname__ = f'paca_{row}'
    create.__doc__ = f'The published row {row}.'
    return register_model(create)


__all__ = ['PaCaViTClassifier']
for _row in ROWS:
    globals()[f'paca_{_row}'] = _register(_row)
