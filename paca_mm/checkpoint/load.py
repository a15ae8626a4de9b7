"""Loading a checkpoint into a backbone, with a report, and nothing left random in silence."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from paca_mm.errors import UserError
from paca_mm.zoo import rows_like

from .read import read_state_dict, state_dict_of
from .rename import ANCHOR, classifier_to_ours, clustering_of, find_prefix, rename_to_ours


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
    """

    source: str
    loaded: tuple[str, ...]
    reset: tuple[tuple[str, tuple, tuple], ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f'loaded {len(self.loaded)} of {len(self.loaded) + len(self.reset) + len(self.missing)} '
            f'tensors from {self.source}'
        ]
        if self.reset:
            lines.append(f'{len(self.reset)} start again, because their shape differs:')
            lines += [f'  {key}: {found} in the file, {own} here' for key, found, own in self.reset]
        if self.unexpected:
            lines.append(f'{len(self.unexpected)} not used: {summary(self.unexpected)}')
        if self.missing:
            lines.append(f'{len(self.missing)} missing: {summary(self.missing)}')
        return '\n'.join(lines)

    def log(self) -> None:
        """Write the report to the current run's log."""
        print_log(str(self), logger='current')


def summary(keys: Iterable[str], most: int = 6) -> str:
    """The first few keys, and how many more there are."""
    keys = list(keys)
    more = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + more


def describe_backbone(state: Mapping[str, Tensor]) -> str:
    """What a backbone's state dict, in our layout and without prefix, looks like, in a few words."""
    found = backbone_settings(state)
    words = [f'{key}={value!r}' for key, value in found.items() if key != 'cluster_every']
    if found.get('cluster_every'):
        words.append('clustering again within a stage (cluster_every)')
    rows = rows_of_backbone(found)
    named = f' (the published row {" or ".join(rows)})' if rows else ''
    return ', '.join(words) + named


def backbone_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``PaCaViT`` that a state dict, in our layout and without prefix, shows.

    ``arch`` is the name of a published size, or a dict with the widths and depths that were found
    (weights do not show the number of heads). ``cluster_every`` is 1 if any stage clusters again
    after its first block.
    """
    from paca_mm.models.paca.archs import ARCHS

    blocks = {
        tuple(map(int, m.groups())) for k in state if (m := re.match(r'stage(\d+)\.(\d+)\.', k))
    }
    depths = tuple(sum(i == stage for i, _ in blocks) for stage in sorted({i for i, _ in blocks}))
    widths = tuple(
        state[f'norm{i + 1}.weight'].shape[0]
        for i in range(len(depths))
        if f'norm{i + 1}.weight' in state
    )
    teacher = any(k.startswith('teacher.') for k in state)
    arch: Any = next(
        (
            name
            for name, arch in ARCHS.items()
            if (arch['depths'], arch['embed_dims'], 'teacher_depths' in arch)
            == (depths, widths, teacher)
        ),
        dict(depths=depths, embed_dims=widths),
    )
    clusters: list[int] = []
    for i in range(1, len(depths) + 1):
        keys = (f'stage{i}.0.attn.clustering.to_clusters.weight', f'teacher.to_clusters{i}.weight')
        clusters.append(next((state[k].shape[0] for k in keys if k in state), 0))
    found = dict(arch=arch)
    if not teacher:
        found['clustering'] = clustering_of(state)
    found['num_clusters'] = tuple(clusters)
    if not teacher and any(
        re.match(r'stage\d+\.[1-9]\d*\.attn\.clustering\.to_clusters\.weight$', k) for k in state
    ):
        found['cluster_every'] = 1
    return found


def rows_of_backbone(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The published rows that :func:`backbone_settings` may have seen; none for other sizes."""
    if not isinstance(settings['arch'], str):
        return ()
    return rows_like(
        settings['arch'],
        settings.get('clustering', 'conv'),
        settings['num_clusters'],
        bool(settings.get('cluster_every')),
    )


def load_pretrained(
    model: nn.Module, path: str | os.PathLike | None, prefix: str | None = None
) -> LoadReport:
    """Load the backbone of a checkpoint, official or ours, into ``model``.

    Only a ``to_clusters`` layer of another number of clusters may stay as it is; the report names it.

    Args:
        model: A :class:`~paca_mm.models.PaCaViT`.
        path: File or URL of a bare backbone, a classifier, a detector or a segmentor.
        prefix: What stands before the backbone's keys; found out if None.

    Raises:
        UserError: The file cannot be read (see :func:`~paca_mm.checkpoint.read_checkpoint`), holds
            no PaCa backbone, or one that is not this model's.
    """
    if not path:
        raise UserError(
            "init_cfg=dict(type='Pretrained') needs checkpoint=<a .pth or .safetensors file, or URL>."
        )
    state = read_state_dict(path)
    found = find_prefix(state) if prefix is None else prefix
    if found is None or not any(key.startswith(found) for key in state):
        raise UserError(
            f'{path} holds no PaCa backbone'
            + (f' under the prefix {prefix!r}' if prefix else '')
            + f' (no key ends in {ANCHOR!r}); its keys are {summary(state, 4)}.'
        )
    loose = tuple(key for key in state if not key.startswith(found))
    state = type(state)((k[len(found) :], v) for k, v in state.items() if k.startswith(found))
    rename_to_ours(state)

    own = model.state_dict()
    missing, unexpected, misfits = compare(own, state)
    reset = [(k, a, b) for k, a, b in misfits if 'to_clusters' in k and a[1:] == b[1:]]
    wrong = [misfit for misfit in misfits if misfit not in reset]
    # Stages that out_indices leaves out are not built; a leftover head is no matter either.
    built = getattr(model, 'num_stages', 0)
    foreign = [
        k for k in unexpected if (m := re.match(r'(?:stage|norm)(\d+)\.', k)) and int(m[1]) <= built
    ]
    foreign += [
        k for k in unexpected if k.startswith('teacher.') and getattr(model, 'teacher', 0) is None
    ]
    if missing or wrong or foreign:
        raise UserError(
            f'{path} is not for this model. The file looks like {describe_backbone(state)}; the '
            f'model is {describe_backbone(own)}.\n'
            f'  missing in the file: {summary(missing) or "nothing"}\n'
            f'  of another shape: {summary(f"{k} {a} for {b}" for k, a, b in wrong) or "nothing"}\n'
            f'  not in the model: {summary(foreign) or "nothing"}\n'
            'Give the backbone the arch, clustering and cluster_every of the file, or take the '
            "model's own checkpoint."
        )
    return _fill(model, state, path, reset, unexpected, loose)


def load_whole(
    model: nn.Module, checkpoint: Any, source: str | os.PathLike, strict: bool
) -> LoadReport:
    """Load a checkpoint, official or ours, into a whole detector, segmentor or classifier.

    Args:
        model: The model.
        checkpoint: What :func:`~paca_mm.checkpoint.read_checkpoint` returned.
        source: Where it came from, for the report.
        strict: Every key of the model must be in it; otherwise layers of another shape, or that are
            not in it, stay as they are, and the report names them.

    Raises:
        UserError: It holds no state dict, none of it fits, or ``strict`` and some of it is missing.
    """
    state = state_dict_of(checkpoint, source)
    own = model.state_dict()
    if ANCHOR not in own:  # the model is more than a bare backbone
        classifier_to_ours(state)
    prefix = find_prefix(state)
    if prefix is not None:
        rename_to_ours(state, prefix)
    missing, unexpected, misfits = compare(own, state)
    nothing = len(missing) + len(misfits) >= len(own)
    if nothing or (strict and (missing or misfits)):
        backbone = {}
        if prefix is not None:
            backbone = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        looks = f' Its backbone looks like {describe_backbone(backbone)}.' if backbone else ''
        raise UserError(
            f'{source} is not for this model.{looks}\n'
            f'  missing in the file: {summary(missing) or "nothing"}\n'
            f'  of another shape: {summary(f"{k} {a} for {b}" for k, a, b in misfits) or "nothing"}\n'
            f'  not in the model: {summary(unexpected) or "nothing"}\n'
            'Take the config that the checkpoint was trained with (another class count shows as '
            'another shape of the last layers).'
        )
    return _fill(model, state, source, misfits, unexpected, missing=missing)


def compare(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[tuple[str, tuple, tuple]]]:
    """Keys that are missing in ``state``, that ``own`` lacks, and that differ in shape."""
    # BatchNorm counts its batches; files that do not carry the count are whole all the same.
    missing = [k for k in own if k not in state and not k.endswith('num_batches_tracked')]
    unexpected = [k for k in state if k not in own]
    misfits = [
        (k, tuple(state[k].shape), tuple(v.shape))
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    return missing, unexpected, misfits


def _fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | os.PathLike,
    reset: Sequence[tuple[str, tuple, tuple]],
    unexpected: Sequence[str],
    loose: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> LoadReport:
    left_out = {key for key, _, _ in reset} | set(unexpected)
    kept = {key: value for key, value in state.items() if key not in left_out}
    model.load_state_dict(kept, strict=False)
    return LoadReport(
        source=os.fspath(source),
        loaded=tuple(kept),
        reset=tuple(reset),
        unexpected=(*unexpected, *loose),
        missing=tuple(missing),
    )
