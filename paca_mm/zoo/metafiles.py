"""The metafiles: the one place where a published figure is written down.

``configs/<task>/metafile.yml`` holds PaCa's models, ``configs/<task>/<family>/metafile.yml`` those of
another family. A metafile is named by its folder below ``configs/``: ``'cls'``, ``'cls/rapidnet'``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paca_mm.errors import UserError
from paca_mm.families import Family, families
from paca_mm.paths import assets_root


def metafiles(task: str = '*') -> list[str]:
    """The folders below ``configs/`` that have a metafile, of one task or of all."""
    root = assets_root() / 'configs'
    files = [*root.glob(f'{task}/metafile.yml'), *root.glob(f'{task}/[!_]*/metafile.yml')]
    return sorted(file.parent.relative_to(root).as_posix() for file in files)


def folder_of(metafile: str) -> Path:
    """The folder of a metafile."""
    return assets_root() / 'configs' / metafile


def family_of(metafile: str) -> Family:
    """Whose models a metafile holds: the family whose configs lie in its folder.

    Raises:
        UserError: None has configs there.
    """
    for family in families().values():
        if (catalogue := family.catalogue) is None:
            continue
        for kind in catalogue.kinds:
            config = catalogue.config(kind, catalogue.rows_of(kind)[0])
            if Path(config).parent == Path('configs', metafile):
                return family
    raise UserError(f'no family has its configs in {folder_of(metafile)}, where a metafile lies.')


@dataclass(frozen=True)
class Entry:
    """A model of a metafile.

    Attributes:
        name: Its name, which is its config's.
        config: The config, from the project's root.
        metadata: ``Row``, ``Parameters`` and the rest.
        metrics: Published results by name; empty where none were published.
        weights: URL of the official weights.
        converted_from: URL of the file that it says these weights come from.
        notes: What to know about the figures.
    """

    name: str
    config: str
    metadata: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None
    converted_from: str | None = None
    notes: tuple[str, ...] = ()


def kind_of(entry: Entry, family: Family) -> str:
    """Which kind of the family's models an entry is, going by its config; ``''`` for none."""
    row = entry.metadata.get('Row', '')
    if family.catalogue is None or row not in family.rows:
        return ''
    config = family.catalogue.config
    return next((k for k in family.catalogue.kinds if config(k, row) == entry.config), '')


def read_metafile(metafile: str) -> list[Entry]:
    """The models of a metafile, in its order.

    Raises:
        UserError: The metafile is missing, or is not what it should be.
    """
    file = folder_of(metafile) / 'metafile.yml'
    try:
        content = yaml.safe_load(file.read_text())
        return [
            Entry(
                name=model['Name'],
                config=model['Config'],
                metadata=model['Metadata'],
                metrics={k: v for r in model.get('Results', ()) for k, v in r['Metrics'].items()},
                weights=model.get('Weights'),
                converted_from=model.get('Converted From', {}).get('Weights'),
                notes=tuple(model.get('Notes', ())),
            )
            for model in content['Models']
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as e:
        raise UserError(f'{file} cannot be read as a metafile: {type(e).__name__}: {e}') from e
