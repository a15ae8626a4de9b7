"""Loading a checkpoint into a backbone, with a report, and nothing left random in silence."""

import os
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from paca_mm.errors import UserError, some_of

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
    """

    source: str
    loaded: tuple[str, ...]
    reset: tuple[tuple[str, tuple, tuple], ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...] = ()
    wrapper: str = ''

    def __str__(self) -> str:
        lines = [
            f'loaded {len(self.loaded)} of {len(self.loaded) + len(self.reset) + len(self.missing)} '
            f'tensors from {self.source}' + (f' ({self.wrapper})' if self.wrapper else '')
        ]
        if self.reset:
            lines.append(f'{len(self.reset)} start again, because their shape differs:')
            lines += [f'  {key}: {found} in the file, {own} here' for key, found, own in self.reset]
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
    clusters, keep their initialisation; the report names them.

    Args:
        model: A backbone of ours; its ``layout`` says what its checkpoints look like.
        path: File or URL of a bare backbone, a classifier, a detector or a segmentor.
        prefix: What stands before the backbone's keys; found out if None.

    Raises:
        UserError: The file cannot be read (see :func:`~paca_mm.checkpoint.read_checkpoint`), holds
            no such backbone, or one that is not this model's.
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
    _fit_state(model, state)

    own = model.state_dict()
    missing, unexpected, misfits = compare(own, state)
    reset = [(k, a, b) for k, a, b in misfits if layout.may_restart(k) and a[1:] == b[1:]]
    wrong = [misfit for misfit in misfits if misfit not in reset]
    # Stages that out_indices leaves out are not built; a leftover head is no matter either.
    foreign = layout.foreign(unexpected, model)
    if missing or wrong or foreign:
        raise UserError(
            f'{path} is not for this model. The file looks like {layout.describe_state(state)}; the '
            f'model is {layout.describe_state(own)}.\n'
            f'{differences(missing, wrong, foreign)}\n'
            "Give the backbone the file's arguments, or take the model's own checkpoint."
        )
    return _fill(model, state, path, reset, unexpected, loose, wrapper=wrapper)


def load_whole(
    model: nn.Module, checkpoint: Any, source: str | os.PathLike, strict: bool
) -> LoadReport:
    """Load a checkpoint, official or ours, into a detector, segmentor or classifier.

    Args:
        model: The model.
        checkpoint: What :func:`~paca_mm.checkpoint.read_checkpoint` returned.
        source: Where it came from, for the report.
        strict: Every key of the model must be in it; otherwise layers of another shape, or that are
            not in it, stay as they are, and the report names them.

    Raises:
        UserError: It holds no state dict, none of it fits, or ``strict`` and some of it is missing.
    """
    layouts: Any = (getattr(part, 'layout', None) for part in model.modules())
    prefer = next((layout.prefer for layout in layouts if layout), ())
    state, wrapper = unwrap(checkpoint, source, prefer)
    own = model.state_dict()
    layout, _ = find_layout(state) or (None, '')
    if layout is not None:
        layout.to_ours(state, bare=layout.anchor in own)
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
            f'{differences(missing, misfits, unexpected)}\n'
            'Take the config that the checkpoint was trained with (another class count shows as '
            'another shape of the last layers).'
        )
    return _fill(model, state, source, misfits, unexpected, missing=missing, wrapper=wrapper)


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


def _fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | os.PathLike,
    reset: Sequence[tuple[str, tuple, tuple]],
    unexpected: Sequence[str],
    loose: Sequence[str] = (),
    missing: Sequence[str] = (),
    wrapper: str = '',
) -> LoadReport:
    left_out = {key for key, _, _ in reset} | set(unexpected)
    kept = OrderedDict((key, value) for key, value in state.items() if key not in left_out)
    vars(kept)['_metadata'] = getattr(state, '_metadata', None)  # the modules' versions
    model.load_state_dict(kept, strict=False)
    return LoadReport(
        source=os.fspath(source),
        loaded=tuple(kept),
        reset=tuple(reset),
        unexpected=(*unexpected, *loose),
        missing=tuple(missing),
        wrapper=wrapper,
    )
