"""The model card of a folder: what a metafile knows of a row, what is known of the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn

from paca_mm.errors import some_of
from paca_mm.families import Family
from paca_mm.paths import assets_root
from paca_mm.zoo.metafiles import Entry, family_of, kind_of, metafiles, read_metafile

#: What the hub calls a task.
_TAGS = {
    'cls': 'image-classification',
    'det': 'object-detection',
    'seg': 'image-segmentation',
    'backbone': 'image-feature-extraction',
}
_TITLES = {
    'cls': 'An image classifier',
    'det': 'A detector',
    'seg': 'A segmentor',
    'backbone': 'A backbone',
}


def entry_of(name: str, config: str | None) -> tuple[Entry, Family] | None:
    """The model of a metafile that a config is of, or that is called so."""
    for metafile in metafiles():
        for entry in read_metafile(metafile):
            file = assets_root() / entry.config
            if entry.name == name or (config and Path(config).absolute() == file.absolute()):
                return entry, family_of(metafile)
    return None


def card(
    described: Mapping[str, Any],
    meta: Mapping[str, Any],
    found: tuple[Entry, Family] | None,
    metrics: Mapping[str, float],
    license: str | None,
    model: nn.Module,
) -> str:
    """The text of a folder's ``README.md``.

    Args:
        described: What is in ``config.json``.
        meta: Of the weights.
        found: The model of a metafile, if it is one.
        metrics: What was measured with these weights.
        license: Of the weights; None for that of the published ones, where it is them.
        model: The model, to be counted.
    """
    name, task = described['name'], described['task']
    entry, family = found or (None, None)
    license = license or _published_license(entry, family, meta)
    head = {
        'library_name': 'paca_mm',
        'pipeline_tag': _TAGS[task],
        'tags': ['vision', 'openmmlab', *([family.title] if family else [])],
        **({'license': license} if license else {}),
    }
    lines = ['---', *(f'{key}: {json.dumps(value)}' for key, value in head.items()), '---', '']
    lines += [
        f'# {name}',
        '',
        f'{_TITLES[task]} of [paca_mm](https://pypi.org/project/paca_mm/): {meta["backbone"]}.',
        '',
    ]
    lines += [
        '```python',
        'from paca_mm import hub',
        '',
        "model = hub.load('FOLDER')  # this folder, or its name on the hub",
        '```',
        '',
    ]
    lines += ['| fact | value |', '| :--- | :--- |']
    count = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        'parameters': f'{count / 1e6:.2f} M',
        'published row': meta.get('row'),
        'config': entry.config if entry else None,
        'weights made from': meta.get('converted_from'),
        'trained': ', '.join(f'{k} {meta[k]}' for k in ('epoch', 'iter') if k in meta),
        'classes': _classes(described.get('classes')),
        'images': _images(described.get('normalisation')),
        'written by': f'paca_mm {described["paca_mm_version"]}',
    }
    lines += [f'| {key} | {value} |' for key, value in facts.items() if value]
    lines += ['', '## Results', '']
    if metrics:
        lines += ['Measured with these weights, by who saved them:', '']
        lines += _table(metrics)
    else:
        lines += ['No results of these weights are stated.']
    if entry and entry.metrics:
        lines += ['', f'Published for {entry.name} by its authors, with weights of theirs:', '']
        lines += _table(entry.metrics)
        lines += [f'\n{note}' for note in entry.notes]
    if family and family.catalogue and family.catalogue.paper:
        paper = family.catalogue.paper
        lines += [
            '',
            '## Paper',
            '',
            f'{family.title}: [{paper}](https://arxiv.org/abs/{paper.partition(":")[2]})',
        ]
    return '\n'.join(lines) + '\n'


def _published_license(
    entry: Entry | None, family: Family | None, meta: Mapping[str, Any]
) -> str | None:
    """That of the published weights, if the file that was converted is called as theirs."""
    if entry is None or family is None or family.catalogue is None:
        return None
    kind = kind_of(entry, family)
    url = family.catalogue.weights(kind, entry.metadata['Row']) if kind else None
    made_from = meta.get('converted_from')
    return family.catalogue.license or None if url and url.endswith(f'/{made_from}') else None


def _table(metrics: Mapping[str, float]) -> list[str]:
    return [
        '| metric | value |',
        '| :--- | ---: |',
        *(f'| {k} | {v:g} |' for k, v in metrics.items()),
    ]


def _classes(names: Any) -> str | None:
    return f'{len(names)}: {some_of(names)}' if names else None


def _images(normalisation: Mapping[str, Any] | None) -> str | None:
    if not normalisation:
        return None
    mean, std = normalisation['mean'], normalisation['std']
    return f'{normalisation["channels"].upper()}, values 0 to 255, less {mean}, over {std}'
