"""Saving a model as a folder, and loading it."""

import copy
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from paca_mm import __version__
from paca_mm.analysis.build import build
from paca_mm.checkpoint import load_pretrained, load_whole, read_checkpoint
from paca_mm.checkpoint.convert import save_safetensors
from paca_mm.checkpoint.metadata import Facts, about, facts_in_config, facts_of, progress_in
from paca_mm.checkpoint.read import unwrap
from paca_mm.engine.config import load_config
from paca_mm.engine.mistakes import explained
from paca_mm.engine.tasks import task_for
from paca_mm.engine.walk import leave_weights_out
from paca_mm.environment import require
from paca_mm.errors import UserError
from paca_mm.families import family_of
from paca_mm.files import make_folder, replacing

from .card import card, entry_of
from .parts import check_parts

CONFIG, WEIGHTS, CARD = 'config.json', 'model.safetensors', 'README.md'

#: Of the layout of ``config.json``; raised when an older ``paca_mm`` could not read it.
_FORMAT = 1
_LONGEST = 10 * 2**20  # bytes of a config.json
_REPOSITORY = re.compile(r'[\w][\w.-]*/[\w][\w.-]*')


def save(
    folder: str | os.PathLike,
    config: str | os.PathLike | Config | Mapping[str, Any],
    weights: str | os.PathLike | nn.Module,
    *,
    part: str = 'model',
    name: str | None = None,
    metrics: Mapping[str, float] | None = None,
    license: str | None = None,
    allow: Collection[str] = (),
    force: bool = False,
) -> Path:
    """Write a model as a folder with ``config.json``, ``model.safetensors`` and a model card.

    Args:
        folder: Where; it is made.
        config: The config of a classifier, segmentor or detector (a path, or loaded), or the settings
            of a backbone: ``dict(type='paca_mm.PaCaViT', arch='tiny')``.
        weights: A checkpoint, official or ours, or the model itself. It must fill the model.
        part: ``'model'``, or ``'backbone'`` for that of the config alone.
        name: Of the model in its card. Default: the config's.
        metrics: What was measured with these weights, for the card.
        license: Of the weights, as the hub writes it. Default: that of the published weights, if it is
            them.
        allow: Types besides :data:`~.parts.PARTS` that the model may be made of. Who loads it has to
            allow them too.
        force: Write over a model that is there.

    Returns:
        The folder.

    Raises:
        UserError: The config has no such part, or one that is not known (see :mod:`.parts`); the weights
            are not the model's; the folder holds a model already, or cannot be written.
    """
    folder = Path(folder).expanduser()
    if not force and (there := [f for f in (CONFIG, WEIGHTS, CARD) if (folder / f).exists()]):
        raise UserError(f'{folder} has a {there[0]} already; force=True writes over it.')
    cfg = config if isinstance(config, (Config, Mapping)) else load_config(os.fspath(config))
    settings, scope, task = _settings(cfg, part)
    check_parts(settings, 'the config', allow)
    model = _built(settings, scope)
    content = weights.state_dict() if isinstance(weights, nn.Module) else read_checkpoint(weights)
    source: Any = 'the model that was given' if isinstance(weights, nn.Module) else weights
    _fill(model, content, source, weights, scope)

    layout = getattr(getattr(model, 'backbone', model), 'layout', None)
    state = model.state_dict()
    shown = {k.removeprefix('backbone.'): v for k, v in state.items()}
    rows = layout.rows(layout.settings(shown)) if layout is not None else ()
    looks = layout.describe_state(shown) if layout is not None else str(settings['type'])
    facts = _facts(cfg, content, state, layout, rows, task)
    filename = getattr(cfg, 'filename', None)
    name = name or (Path(filename).stem if filename else folder.absolute().name)
    meta = {**about(source, task, looks, rows), **facts.meta(), **progress_in(content)}
    described = {
        'library_name': 'paca_mm',
        'paca_mm_version': __version__,
        'format': _FORMAT,
        'name': name,
        'task': task,
        'default_scope': scope,
        'model': settings,
        'row': meta.get('row'),
        'classes': facts.classes,
        'palette': facts.palette,
        'normalisation': facts.normalisation,
    }
    text = card(described, meta, entry_of(name, filename), metrics or {}, license, model)
    make_folder(folder)
    with replacing(folder / WEIGHTS) as file:
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        save_safetensors(copies, file, meta)
    for target, words in ((CONFIG, json.dumps(described, indent=1) + '\n'), (CARD, text)):
        with replacing(folder / target) as file:
            file.write_text(words, 'utf-8')
    return folder


def load(
    source: str | os.PathLike,
    *,
    device: str | None = None,
    allow: Collection[str] = (),
    revision: str | None = None,
) -> Any:
    """Load a model that :func:`save` has written, in evaluation mode.

    Nothing in the folder is run. ``config.json`` may name the parts in :data:`~.parts.PARTS` and no
    files; the weights are tensors; other files of the folder are not read.

    Args:
        source: The folder; or ``user/name`` on the HuggingFace hub, for which the package
            huggingface_hub is needed.
        device: Where the model goes; the CPU by default.
        allow: Types besides :data:`~.parts.PARTS` that you trust.
        revision: A branch, tag or commit on the hub.

    Returns:
        The backbone, or the host's model, with ``dataset_meta`` where the classes are known.

    Raises:
        UserError: There is no such folder, a file is missing or damaged, it names a part that is not
            known, or the weights are not the model's.
    """
    folder = _local(source, revision)
    described = _read_config(folder / CONFIG)
    settings = described['model']
    check_parts(settings, str(folder / CONFIG), allow)
    leave_weights_out(settings)
    model: Any = _built(settings, described.get('default_scope'))
    weights = folder / WEIGHTS
    load_whole(model, read_checkpoint(weights), weights, strict=True)
    for module in model.modules():
        if hasattr(type(module), 'is_init'):
            module.is_init = (
                True  # mmengine's: a Runner that is given it does not initialise it again
            )
    classes, palette = described.get('classes'), described.get('palette')
    if classes:
        known: Any = {'classes': tuple(classes)}
        known |= {'palette': [tuple(colour) for colour in palette]} if palette else {}
        model.dataset_meta = known
    return model.to(device or 'cpu').eval()


def _settings(cfg: Any, part: str) -> tuple[dict[str, Any], str | None, str]:
    """The settings of the part as plain data, the scope of its host, and the task."""
    if part not in ('model', 'backbone'):
        raise UserError(f"part={part!r}: it must be 'model' or 'backbone'.")
    is_backbone = 'type' in cfg
    node = cfg if is_backbone else cfg.get('model')
    if not node or (part == 'backbone' and not is_backbone and not node.get('backbone')):
        raise UserError(
            f'the config has no {part} to save.\n  to fix it: a complete config, or the settings of a '
            "backbone: dict(type='paca_mm.PaCaViT', arch='tiny')."
        )
    if part == 'backbone' or is_backbone:
        node = node if is_backbone else node['backbone']
        if family_of(node) is None:
            raise UserError(
                f'{node.get("type")!r} is no backbone of this suite: a folder holds one of ours alone, '
                'or a complete model of a host.'
            )
        settings, scope, task = _plain(node), None, 'backbone'
    else:
        found = task_for(cfg)
        settings, scope, task = _plain(node), found.scope, found.name
        if cfg.get('data_preprocessor') and not settings.get('data_preprocessor'):
            settings['data_preprocessor'] = _plain(cfg['data_preprocessor'])
    leave_weights_out(settings)
    return settings, scope, task


def _plain(node: Any) -> Any:
    """A config as JSON holds it: classes by their names, tuples as lists."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    if isinstance(node, type):
        return f'{node.__module__.partition(".")[0]}.{node.__name__}'
    if node is None or isinstance(node, (str, bool, int, float)):
        return node
    raise UserError(
        f'{node!r} in the settings of the model is no plain data, so no file can hold it.'
    )


def _built(settings: Mapping[str, Any], scope: Any) -> nn.Module:
    settings = copy.deepcopy(dict(settings))
    if scope is None:
        with explained(Config(dict(model=settings))):
            return MODELS.build(settings)
    if scope not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise UserError(f'default_scope={scope!r}: it must be mmdet, mmseg or mmpretrain.')
    require(scope)
    init_default_scope(scope)
    return build(Config(dict(model=settings, default_scope=scope)))


def _fill(model: Any, content: Any, source: Any, weights: Any, scope: str | None) -> None:
    if scope is None and not isinstance(weights, nn.Module):
        report = load_pretrained(model, weights)
        if report.reset:
            raise UserError(f'{source} does not fill the backbone.\n{report}')
    else:
        load_whole(model, content, source, strict=True)


def _facts(cfg: Any, content: Any, state: Any, layout: Any, rows: Any, task: str) -> Facts:
    """The classes that the weights state before those of the config."""
    own = facts_in_config(cfg, 'the config') if 'type' not in cfg else None
    if task == 'backbone':
        found = own or facts_of(content, unwrap(content, '')[0], layout, rows, 'cls')
        return Facts(found.stated_by, None, None, found.normalisation) if found else Facts('nobody')
    stated = facts_of(content, state)
    if own is None:
        return stated or Facts('nobody')
    if stated is None or not stated.classes:
        return own
    return Facts(own.stated_by, stated.classes, stated.palette, own.normalisation)


def _local(source: str | os.PathLike, revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    words = os.fspath(source)
    if folder.exists() or not _REPOSITORY.fullmatch(words):
        raise UserError(
            f'there is no folder {folder.absolute()}, and it is no name on the hub (user/name) either.'
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f'{words} is no folder here; to fetch it from the HuggingFace hub: pip install '
            'huggingface_hub'
        ) from None
    try:
        found = snapshot_download(words, revision=revision, allow_patterns=[CONFIG, WEIGHTS])
    except Exception as e:  # of the package, of its HTTP library, of the system
        raise UserError(
            f'{words} is no folder here, and cannot be fetched from the HuggingFace hub '
            f'({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ""}).'
        ) from e
    return Path(found)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(
            f'{file.parent} has no {CONFIG}, so it is no model that paca_mm.hub.save has written.'
        )
    try:
        if file.stat().st_size > _LONGEST:
            raise ValueError(f'it is longer than {_LONGEST} bytes')
        described = json.loads(file.read_text('utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f'{file} cannot be read as JSON ({e}).') from e
    if (
        not isinstance(described, dict)
        or described.get('library_name') != 'paca_mm'
        or not isinstance(described.get('model'), dict)
    ):
        raise UserError(
            f'{file} is of another library: it has no "library_name": "paca_mm" and "model".'
        )
    if not isinstance(described.get('format'), int) or described['format'] > _FORMAT:
        raise UserError(
            f'{file} has format {described.get("format")!r}; this paca_mm {__version__} reads up to '
            f'{_FORMAT}.\n  to fix it: install the newer paca_mm.'
        )
    return described
