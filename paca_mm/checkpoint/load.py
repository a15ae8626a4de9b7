"""Loading a checkpoint into a backbone, with a report, and nothing left random in silence."""

import os
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from paca_mm.errors import UserError, some_of
from paca_mm.families import layouts

from .channels import RGB, Adapted, adapt_channels, reads_other_channels
from .finite import check_finite
from .layout import KeyLayout
from .read import read_checkpoint, unwrap
from .rename import find_layout


@dataclass(frozen=True)
class LoadReport:
    """What became of every key.

    Attributes:
        source: The file or URL.
        loaded: Keys that were loaded.
        reset: Layers of another shape (another number of clusters or classes): key, shape in the
            file, shape in the model. They keep their fresh initialisation.
        unexpected: Keys of the file that the model does not have, such as a classifier's head.
        missing: Keys of the model that the file does not have.
        wrapper: Under what name the file has them, ``'state_dict_ema'`` say; ``''`` for none.
        adapted: Convolutions of RGB images that were adapted to those of the model.
    """

    source: str
    loaded: tuple[str, ...]
    reset: tuple[tuple[str, tuple, tuple], ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...] = ()
    wrapper: str = ''
    adapted: tuple[Adapted, ...] = ()

    def __str__(self) -> str:
        lines = [
            f'loaded {len(self.loaded)} of {len(self.loaded) + len(self.reset) + len(self.missing)} '
            f'tensors from {self.source}' + (f' ({self.wrapper})' if self.wrapper else '')
        ]
        lines += map(str, self.adapted)
        if self.reset:
            lines.append(f'{len(self.reset)} start again, because their shape differs:')
            lines += [f'  {key}: {found} in the file, {own} here' for key, found, own in self.reset]
            if any(_other_channels(*misfit) for misfit in self.reset):
                lines.append(f'  (another number of image channels. {_ADAPTS})')
        if self.unexpected:
            lines.append(f'{len(self.unexpected)} not used: {some_of(self.unexpected)}')
        if self.missing:
            lines.append(f'{len(self.missing)} missing: {some_of(self.missing)}')
        return '\n'.join(lines)

    def log(self) -> None:
        """Write the report to the current run's log."""
        print_log(str(self), logger='current')


def load_pretrained(
    model: nn.Module, path: str | os.PathLike | None, prefix: str | None = None
) -> LoadReport:
    """Load the backbone of a checkpoint, official or ours, into ``model``.

    Only layers that may start again at another size, PaCa's ``to_clusters`` with another number of
    clusters, keep their initialisation; the report names them. Weights of RGB images are adapted to
    another number of channels (see :mod:`.channels`).

    Args:
        model: A backbone of ours; its ``layout`` says what its checkpoints look like.
        path: File or URL of a bare backbone, a classifier, a detector or a segmentor.
        prefix: What stands before the backbone's keys; found out if None.

    Raises:
        UserError: The file cannot be read (see :func:`~paca_mm.checkpoint.read_checkpoint`), holds
            no such backbone, one that is not this model's, or one whose weights are not finite.
    """
    if not path:
        raise UserError(
            "init_cfg=dict(type='Pretrained') needs checkpoint=<a .pth or .safetensors file, or URL>."
        )
    layout: KeyLayout = getattr(model, 'layout')  # noqa: B009
    state, wrapper = unwrap(read_checkpoint(path), path, layout.prefer)
    found = layout.find(state) if prefix is None else prefix
    if found is None or not any(key.startswith(found) for key in state):
        raise UserError(
            f'{path} holds no {layout.title} backbone'
            + (f' under the prefix {prefix!r}' if prefix else '')
            + f' (no key ends in {layout.anchor!r}); its keys are {some_of(state, 4)}.'
        )
    loose = tuple(key for key in state if not key.startswith(found))
    state = below(state, found)
    layout.to_ours(state, bare=True)
    own = model.state_dict()
    changed = adapt_channels(state, own)
    _fit_state(model, state)
    missing, unexpected, misfits = compare(own, state)
    reset = [(k, a, b) for k, a, b in misfits if layout.may_restart(k) and a[1:] == b[1:]]
    wrong = [misfit for misfit in misfits if misfit not in reset]
    # Stages that out_indices leaves out are not built; a leftover head is no matter either.
    foreign = layout.foreign(unexpected, model)
    if missing or wrong or foreign:
        raise UserError(
            f'{path} is not for this model. The file looks like {layout.describe_state(state)}; the '
            f'model is {layout.describe_state(own)}.\n'
            f'{differences(missing, wrong, foreign)}\n{about_channels(wrong)}'
            "Give the backbone the file's arguments, or take the model's own checkpoint."
        )
    report = LoadReport(
        source=os.fspath(path),
        loaded=(),
        reset=tuple(reset),
        unexpected=(*unexpected, *loose),
        wrapper=wrapper,
        adapted=changed,
    )
    kept = _kept(state, reset, unexpected)
    check_finite(kept, path)
    return Fitted(model, kept, report).load()


@dataclass(frozen=True)
class Fitted:
    """A state dict that was brought to a model, not yet loaded.

    Attributes:
        model: The model, without what wraps it.
        state: What it is given: its own names and shapes, and no key that it has not.
        report: What becomes of every key, without those that are loaded.
    """

    model: nn.Module
    state: 'OrderedDict[str, Tensor]'
    report: LoadReport

    def complete(self) -> 'OrderedDict[str, Tensor]':
        """The state that the model will have: what is loaded, and what stays as it is."""
        own = self.model.state_dict()
        state = OrderedDict({**own, **self.state})
        versions = {**getattr(own, '_metadata', {}), **getattr(self.state, '_metadata', {})}
        vars(state)['_metadata'] = OrderedDict(versions)
        return state

    def averages(self, content: Any) -> dict[str, Any] | None:
        """mmengine's second weights in the same file, of its ``EMAHook``, brought to the model too.

        Args:
            content: What :func:`~paca_mm.checkpoint.read_checkpoint` returned.

        Returns:
            A value for each of :attr:`state` that it has, with ``module.`` before the names, and the
            count of steps; None where the file has no such weights.
        """
        found = content.get('ema_state_dict')
        if self.report.wrapper != 'state_dict' or not isinstance(found, Mapping):
            return None
        inner = {k.removeprefix('module.'): v for k, v in found.items() if k.startswith('module.')}
        own = self.model.state_dict()
        if self.report.adapted:
            adapt_channels(inner, own)
        kept = {
            f'module.{key}': value
            for key, value in inner.items()
            if key in self.state and value.shape == own[key].shape
        }
        check_finite(kept, f'ema_state_dict of {self.report.source}')
        return {**{k: v for k, v in found.items() if k == 'steps'}, **kept} if kept else None

    def load(self, complete: Mapping[str, Tensor] | None = None) -> LoadReport:
        """Load it.

        Args:
            complete: What :meth:`complete` returned, where its values have been exchanged since.
        """
        state = self.state
        if complete is not None:
            state = OrderedDict((key, complete[key]) for key in self.state)
            vars(state)['_metadata'] = getattr(self.state, '_metadata', OrderedDict())
        self.model.load_state_dict(state, strict=False)
        return replace(self.report, loaded=tuple(self.state))


def load_whole(
    model: nn.Module, checkpoint: Any, source: str | os.PathLike, strict: bool
) -> LoadReport:
    """Load a checkpoint, official or ours, into a detector, segmentor or classifier.

    Args:
        model: The model, or what wraps it (see :func:`unwrapped`).
        checkpoint: What :func:`~paca_mm.checkpoint.read_checkpoint` returned.
        source: Where it came from, for the report.
        strict: Every key of the model must be in it; otherwise layers of another shape, or that are
            not in it, stay as they are, and the report names them. Weights of RGB images are then
            adapted to another number of channels (see :mod:`.channels`).

    Raises:
        UserError: It holds no state dict, none of it fits, or ``strict`` and some of it is missing; or
            weights that are not finite.
    """
    return fit_whole(model, checkpoint, source, strict).load()


def fit_whole(model: nn.Module, checkpoint: Any, source: str | os.PathLike, strict: bool) -> Fitted:
    """The first half of :func:`load_whole`: nothing is loaded yet."""
    model = unwrapped(model)
    layouts: Any = (getattr(part, 'layout', None) for part in model.modules())
    prefer = next((layout.prefer for layout in layouts if layout), ())
    state, wrapper = unwrap(checkpoint, source, prefer)
    own = model.state_dict()
    layout, _ = find_layout(state) or (None, '')
    if layout is not None:
        layout.to_ours(state, bare=layout.anchor in own)
    changed = () if strict else adapt_channels(state, own)
    _fit_state(model, state)
    missing, unexpected, misfits = compare(own, state)
    nothing = len(missing) + len(misfits) >= len(own)
    if nothing or (strict and (missing or misfits)):
        looks = ''
        if layout is not None:
            backbone = below(state, layout.find(state) or '')
            looks = f' Its backbone looks like {layout.describe_state(backbone)}.'
        raise UserError(
            f'{source} is not for this model.{looks}\n'
            f'{differences(missing, misfits, unexpected)}\n{about_channels(misfits)}'
            'Take the config that the checkpoint was trained with (another class count shows as '
            'another shape of the last layers).'
        )
    report = LoadReport(
        source=os.fspath(source),
        loaded=(),
        reset=tuple(misfits),
        unexpected=tuple(unexpected),
        missing=tuple(missing),
        wrapper=wrapper,
        adapted=changed,
    )
    kept = _kept(state, misfits, unexpected)
    check_finite(kept, source)
    return Fitted(model, kept, report)


def unwrapped(model: nn.Module) -> nn.Module:
    """A model without what wraps it: distribution, test-time augmentation, averaging, or several.

    A wrapper keeps the model as its ``module`` and has no parameters besides.
    """
    inner = getattr(model, 'module', None)
    if isinstance(inner, nn.Module) and all(
        name.startswith('module.') for name, _ in model.named_parameters()
    ):
        return unwrapped(inner)
    return model


def _other_channels(key: str, found: tuple, own: tuple) -> bool:
    """Whether a weight differs in the channels of the image."""
    names = tuple(f'{name}.weight' for layout in layouts() for name in layout.first_convs)
    return reads_other_channels(found, own) and (key.endswith(names) or RGB in (found[1], own[1]))


def about_channels(misfits: Sequence[tuple[str, tuple, tuple]]) -> str:
    """A line on the first convolution that differs in the channels of the image, if there is one."""
    for key, found, own in misfits:
        if _other_channels(key, found, own):
            return (
                f'  channels: {key} reads images of {found[1]} channels in the file, of {own[1]} here '
                f'(in_channels). {_ADAPTS}\n'
            )
    return ''


_ADAPTS = f'Only weights of {RGB} channels are adapted, and only where a training starts.'


def _fit_state(model: nn.Module, state: MutableMapping[str, Any]) -> None:
    """Let the backbones in a model bring a state dict to their sizes, positions of patches say."""
    for name, module in model.named_modules():
        fit: Any = getattr(module, 'fit_state', None)
        if fit is not None:
            fit(state, f'{name}.' if name else '')


def compare(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[tuple[str, tuple, tuple]]]:
    """Keys that are missing in ``state``, that ``own`` lacks, and that differ in shape."""
    # BatchNorm counts its batches; files without the count are complete.
    missing = [k for k in own if k not in state and not k.endswith('num_batches_tracked')]
    unexpected = [k for k in state if k not in own]
    misfits = [
        (k, tuple(state[k].shape), tuple(v.shape))
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    return missing, unexpected, misfits


def below(state: Mapping[str, Tensor], prefix: str) -> 'OrderedDict[str, Tensor]':
    """What stands below a prefix, without it; the modules' versions too."""
    kept = OrderedDict((k[len(prefix) :], v) for k, v in state.items() if k.startswith(prefix))
    versions = getattr(state, '_metadata', {})
    vars(kept)['_metadata'] = OrderedDict(
        (k[len(prefix) :], v) for k, v in versions.items() if f'{k}.'.startswith(prefix)
    )
    return kept


def differences(
    missing: Sequence[str],
    misfits: Sequence[tuple[str, tuple, tuple]],
    foreign: Sequence[str],
) -> str:
    """Three lines of a message: what the file lacks, has in another shape, has too much."""
    shapes = some_of(f'{k} {a} for {b}' for k, a, b in misfits)
    return (
        f'  missing in the file: {some_of(missing) or "nothing"}\n'
        f'  of another shape: {shapes or "nothing"}\n'
        f'  not in the model: {some_of(foreign) or "nothing"}'
    )


def _kept(
    state: Mapping[str, Tensor],
    reset: Sequence[tuple[str, tuple, tuple]],
    unexpected: Sequence[str],
) -> 'OrderedDict[str, Tensor]':
    """What of a state dict fits, with the modules' versions."""
    left_out = {key for key, _, _ in reset} | set(unexpected)
    kept = OrderedDict((key, value) for key, value in state.items() if key not in left_out)
    if versions := getattr(state, '_metadata', None):
        vars(kept)['_metadata'] = versions
    return kept
