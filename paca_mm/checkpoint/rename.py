"""One table between the official state-dict keys and ours, used both ways.

What the table does not name is called the same on both sides. ``{i}`` and ``{j}`` are numbers; what
follows a row's name (``.weight``, ``.running_mean``) is kept.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from paca_mm.errors import UserError

#: (official, ours)
BACKBONE = (
    ('stage{i}.{j}.norm1_before', 'stage{i}.{j}.norm1'),
    ('stage{i}.{j}.norm2_before', 'stage{i}.{j}.norm2'),
    ('stage{i}.{j}.mlp.dwconv.dwconv', 'stage{i}.{j}.mlp.dwconv'),
    ('paca_teacher.block{i}.{j}.0.fn.0', 'teacher.stage{i}.{j}.dwconv'),
    ('paca_teacher.block{i}.{j}.0.fn.2', 'teacher.stage{i}.{j}.norm1'),
    ('paca_teacher.block{i}.{j}.1', 'teacher.stage{i}.{j}.pwconv'),
    ('paca_teacher.block{i}.{j}.3', 'teacher.stage{i}.{j}.norm2'),
    ('paca_teacher.transition{i}.0.conv', 'teacher.transition{i}.conv'),
    ('paca_teacher.transition{i}.2', 'teacher.transition{i}.norm'),
    ('paca_teacher.lateral{i}.0', 'teacher.lateral{i}.conv'),
    ('paca_teacher.lateral{i}.2', 'teacher.lateral{i}.norm'),
    ('paca_teacher.fpn{i}.0.fn.0', 'teacher.fpn{i}.dwconv'),
    ('paca_teacher.fpn{i}.0.fn.2', 'teacher.fpn{i}.norm1'),
    ('paca_teacher.fpn{i}.1', 'teacher.fpn{i}.pwconv'),
    ('paca_teacher.fpn{i}.3', 'teacher.fpn{i}.norm2'),
    ('paca_teacher.to_clusters{i}', 'teacher.to_clusters{i}'),
)

#: The official clustering networks number their layers, so the same number means another layer in
#: each of them: the layers, in official order, by what ``clustering=`` calls the network.
CLUSTERING = {
    'conv': ((0, 'dwconv'), (2, 'pwconv'), (4, 'to_clusters')),
    'mlp': ((0, 'fc'), (2, 'to_clusters')),
    'linear': ((0, 'to_clusters'),),
}

#: The official classifier has its backbone's keys at the top and its head beside them; ours is
#: mmpretrain's. Detectors and segmentors are called the same on both sides. (official, ours)
CLASSIFIER = (
    ('head.', 'head.fc.'),
    ('', 'backbone.'),  # the rest
)

#: The key by which a PaCa backbone is found inside a checkpoint, in either layout.
ANCHOR = 'patch_embed.proj.0.weight'

#: The official teacher keeps its binomial kernel in the state dict; it is a constant, so ours does not.
_BLUR = re.compile(r'paca_teacher\.transition(\d+)\.0\.blur_filter$')
_BLURRED = re.compile(r'paca_teacher\.transition(\d+)\.0\.conv\.weight$')


def clustering_of(keys: Iterable[str]) -> str:
    """Which clustering network a backbone's keys, of either layout, belong to."""
    tails = {key.rpartition('.attn.clustering.')[2] for key in keys}
    if tails & {'clustering.4.weight', 'pwconv.weight'}:
        return 'conv'
    return 'mlp' if tails & {'clustering.2.weight', 'fc.weight'} else 'linear'


def _rows(keys: Iterable[str]) -> list[tuple[str, str]]:
    block = 'stage{i}.{j}.attn.clustering'
    layers = CLUSTERING[clustering_of(keys)]
    return [*BACKBONE, *((f'{block}.clustering.{n}', f'{block}.{name}') for n, name in layers)]


def _translate(keys: list[str], to_ours: bool) -> dict[str, str]:
    """Each key's name in the other layout."""
    rows = []
    for official, ours in _rows(keys):
        source, target = (official, ours) if to_ours else (ours, official)
        pattern = (
            re.escape(source).replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{j\}', r'(?P<j>\d+)')
        )
        target = target.replace('{i}', r'\g<i>').replace('{j}', r'\g<j>')
        rows.append((re.compile(pattern + r'(?=\.[a-z_]+$)'), target))
    names = {}
    for key in keys:
        names[key] = key
        for regex, target in rows:
            if regex.match(key):
                names[key] = regex.sub(target, key)
                break
    return names


def _rename(state: MutableMapping[str, Any], prefix: str, to_ours: bool) -> None:
    keys = [key[len(prefix) :] for key in state if key.startswith(prefix)]
    names = _translate(keys, to_ours)
    if len(set(names.values())) != len(names):
        clash = sorted({n for n in names.values() if list(names.values()).count(n) > 1})
        raise UserError(f'the state dict has keys of both layouts that mean the same: {clash}.')
    values = [(names[key], state.pop(prefix + key)) for key in keys]
    state.update((prefix + name, value) for name, value in values)


def rename_to_ours(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give a backbone's keys our names, in place; keys that have them already stay.

    Args:
        state: A state dict; keys outside ``prefix`` are left alone.
        prefix: What stands before the backbone's keys, ``'backbone.'`` say.

    Raises:
        UserError: Two keys would get the same name, or a teacher's blur kernel is not the binomial
            one, so that the model would not be the checkpoint's.
    """
    from paca_mm.models.paca.teacher import binomial_blur

    for key in [k for k in state if k.startswith(prefix) and _BLUR.match(k[len(prefix) :])]:
        kernel = state.pop(key)
        if not kernel.float().cpu().allclose(binomial_blur(kernel.shape[0])):
            raise UserError(f'{key} is not the binomial kernel / 16 that PaCa-ViT blurs with.')
    _rename(state, prefix, to_ours=True)


def rename_to_official(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give a backbone's keys the official names, in place, and add the official constants."""
    from paca_mm.models.paca.teacher import binomial_blur

    _rename(state, prefix, to_ours=False)
    blurs: dict[str, Tensor] = {}
    for key, weight in state.items():
        if key.startswith(prefix) and (match := _BLURRED.match(key[len(prefix) :])):
            name = f'{prefix}paca_teacher.transition{match[1]}.0.blur_filter'
            blurs[name] = binomial_blur(weight.shape[1]).to(weight)
    state.update(blurs)


def find_prefix(state: Mapping[str, Any]) -> str | None:
    """What stands before the PaCa backbone's keys in a checkpoint, or None if there is none in it."""
    found = [key[: -len(ANCHOR)] for key in state if key.endswith(ANCHOR)]
    return min(found, key=len) if found else None


def classifier_to_ours(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """Give an official classifier (or a bare backbone) the keys of mmpretrain's, in place.

    The keys within the backbone stay as they are: that is :func:`rename_to_ours`'s part. A state
    dict that has no backbone at the top stays as it is.
    """
    if prefix + ANCHOR in state:
        _move(state, prefix, CLASSIFIER)


def classifier_to_official(state: MutableMapping[str, Any], prefix: str = '') -> None:
    """The way back of :func:`classifier_to_ours`, in place."""
    _move(state, prefix, [(ours, official) for official, ours in CLASSIFIER])


def _move(state: MutableMapping[str, Any], prefix: str, rows: Iterable[tuple[str, str]]) -> None:
    """Exchange what keys begin with, by the first row that fits."""
    for key in [key for key in state if key.startswith(prefix)]:
        name, value = key[len(prefix) :], state.pop(key)
        for source, target in rows:
            if name.startswith(source):
                name = target + name[len(source) :]
                break
        state[prefix + name] = value
