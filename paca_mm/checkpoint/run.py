"""What the checkpoint of a run holds beside its weights, without which nobody can go on with it."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from paca_mm.errors import UserError, some_of

from .finite import not_finite

#: Settings of an optimizer's groups that do not tell its kind: some versions of PyTorch have them, or
#: schedules and constructors put them there.
_COMMON = {
    *('capturable', 'decoupled_weight_decay', 'differentiable', 'foreach', 'fused', 'maximize'),
    *('initial_lr', 'lr_scale', 'param_names', 'group_name'),
}


def check_run(content: Any, source: str | os.PathLike) -> None:
    """A checkpoint is one of a run that can go on: it has all parts, each of its kind.

    Weights are looked at where they are brought to a model; the optimizer's numbers here.

    Args:
        content: What :func:`~paca_mm.checkpoint.read_checkpoint` returned.
        source: Where it came from, for the message.

    Raises:
        UserError: It is not; the message says what is missing or wrong.
    """
    held = content if isinstance(content, Mapping) else {}
    if lacking := [key for key in ('meta', 'message_hub', 'optimizer') if key not in held]:
        raise UserError(
            f'{source} cannot be resumed: it holds weights only (no {", ".join(lacking)}). '
            f'To start a new run from them: --cfg-options load_from={source}, no --resume.'
        )
    for name, value, wanted in _parts(held):
        if not wanted(value):
            raise UserError(
                f'{source} cannot be resumed: its {name} is {_kind(value)}, which no run writes: it is '
                'damaged, or was written by another program.'
            )
    if ruined := not_finite(dict(_tensors(held['optimizer'], 'optimizer'))):
        raise UserError(
            f'{source} cannot be resumed: {len(ruined)} tensors of its optimizer hold NaN or infinity '
            f'({some_of(ruined, 3)}), which the next step would put into the weights.\n'
            '  to fix it: take an earlier checkpoint of that training (--resume takes the newest good '
            'one).'
        )


def check_optimizer(saved: Mapping, built: Mapping, source: str | os.PathLike) -> None:
    """The optimizer of a checkpoint is the one that a run has built.

    PyTorch compares the groups only, in words that do not say what to do; numbers of another kind of
    optimizer it takes over, and fails in the first step.

    Args:
        saved: The optimizer's part of the checkpoint.
        built: The ``state_dict`` of the run's own optimizer wrapper.
        source: Where it came from, for the message.

    Raises:
        UserError: It is another one; the message says in what they differ.
    """
    if different := _other_optimizer(saved, built):
        raise UserError(
            f'{source} cannot be resumed: {different}.\n'
            '  to fix it: the optim_wrapper of the run that wrote it. For a new run from its weights: '
            f'--cfg-options load_from={source}, no --resume.'
        )


def _other_optimizer(saved: Mapping, built: Mapping) -> str:
    """In what two states of optimizers differ, or nothing."""
    if not (isinstance(saved, Mapping) and isinstance(built, Mapping)):
        return ''  # a wrapper of the user's own
    if ('param_groups' in saved) != ('param_groups' in built):
        kinds = ['one optimizer' if 'param_groups' in s else 'several' for s in (saved, built)]
        return f'it holds the state of {kinds[0]}, and the config builds {kinds[1]}'
    if 'param_groups' not in built:
        if lacking := [name for name in built if name not in saved]:
            return f'it holds no optimizer for {some_of(lacking)}'
        differing = ((name, _other_optimizer(saved[name], built[name])) for name in built)
        return next((f'{name}: {text}' for name, text in differing if text), '')
    ours, theirs = built['param_groups'], saved['param_groups']
    names = [{key for group in groups for key in group} - _COMMON for groups in (ours, theirs)]
    lacking, foreign = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    if lacking and foreign:
        return (
            f'its optimizer is of another kind: it has the settings {some_of(foreign)}, and that of '
            f'the config {some_of(lacking)}'
        )
    if len(ours) != len(theirs):
        return (
            f'its optimizer has {len(theirs)} group(s) of parameters, and that of the config '
            f'{len(ours)} (paramwise_cfg)'
        )
    sizes = [(len(a['params']), len(b['params'])) for a, b in zip(ours, theirs, strict=True)]
    if others := [number for number, (a, b) in enumerate(sizes) if a != b]:
        a, b = sizes[others[0]]
        return (
            f'group {others[0]} of its optimizer has {b} parameters, and that of the config {a} '
            '(paramwise_cfg, or a layer more or less)'
        )
    return ''


def _parts(content: Mapping) -> Iterator[tuple[str, Any, Any]]:
    """The parts that mmengine's Runner takes over: name, value, and whether it can be that."""
    yield 'state_dict', content.get('state_dict'), _is_mapping
    yield 'meta', content['meta'], _is_mapping
    for name in ('epoch', 'iter'):
        yield f'meta.{name}', content['meta'].get(name), _is_count
    seed = content['meta'].get('seed')
    yield 'meta.seed', seed, lambda value: value is None or _is_count(value)
    place = content['meta'].get('data')  # where the run was in its data
    yield 'meta.data', place, lambda value: value is None or _are_counts(value)
    yield 'message_hub', content['message_hub'], _is_mapping
    for name in ('log_scalars', 'runtime_info', 'resumed_keys'):
        yield f'message_hub.{name}', content['message_hub'].get(name), _is_mapping
    yield 'optimizer', content['optimizer'], _is_optimizer
    schedulers = content.get('param_schedulers') or []
    yield 'param_schedulers', schedulers, lambda value: isinstance(value, (list, Mapping))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_count, value.values()))


def _is_optimizer(value: Any) -> bool:
    """The state of an optimizer, or of several by name."""
    if not isinstance(value, Mapping):
        return False
    if 'param_groups' not in value:
        inner = [part for part in value.values() if isinstance(part, Mapping)]
        return bool(inner) and all('param_groups' in part for part in inner)
    groups = value['param_groups']
    return (
        isinstance(groups, list)
        and all(isinstance(g, Mapping) and isinstance(g.get('params'), list) for g in groups)
        and isinstance(value.get('state'), Mapping)
    )


def _kind(value: Any) -> str:
    return 'missing' if value is None else f'of the kind {type(value).__name__}'


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings, by the path to them."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f'{name}.{key}')
