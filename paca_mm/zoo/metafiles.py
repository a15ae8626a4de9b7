"""The catalogue of published models: read, counted again, and turned into the README tables.

``configs/<task>/metafile.yml`` is the one place where a published figure is written down. The tables
of ``configs/<task>/README.md`` are made from it, between two marker comments.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch._subclasses.fake_tensor import FakeTensorMode

from paca_mm import zoo
from paca_mm.analysis.flops import count
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

TASKS = ('cls', 'det', 'seg')
BEGIN = '<!-- table: python tools/check_metafiles.py --write -->'
END = '<!-- end of table -->'

#: Height and width of the image whose multiply-accumulates a task's metafile holds.
IMAGES = {'cls': (224, 224), 'det': (800, 1280), 'seg': (512, 512)}

#: The columns of each task's table: heading, and where the figure is.
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    'cls': (('MACs (G)', 'FLOPs'), ('top-1 (%)', 'Top 1 Accuracy')),
    'det': (
        ('backbone MACs (G)', 'Backbone MACs'),
        ('published FLOPs (G)', 'Published FLOPs (G)'),
        ('box AP', 'box AP'),
        ('mask AP', 'mask AP'),
    ),
    'seg': (
        ('backbone MACs (G)', 'Backbone MACs'),
        ('published FLOPs (G)', 'Published FLOPs (G)'),
        ('mIoU', 'mIoU'),
    ),
}


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

    @property
    def kind(self) -> str:
        """Which of :data:`paca_mm.zoo.MODELS` it is, going by its name; ``''`` for none."""
        row = self.metadata.get('Row', '')
        kinds = (
            k for k in zoo.MODELS if row in zoo.ROWS and zoo.config_name(k, row) == self.config
        )
        return next(kinds, '')


def read_metafile(task: str) -> list[Entry]:
    """The models of a task, in the order of the file.

    Raises:
        UserError: The metafile is missing, or is not what it should be.
    """
    file = _folder(task) / 'metafile.yml'
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


def problems_of(task: str, macs: bool = True) -> Iterator[str]:
    """What is wrong with a task's metafile, a sentence each; counts every model again.

    Args:
        task: ``'cls'``, ``'det'`` or ``'seg'``.
        macs: Count multiply-accumulates too, which takes a second or two a model.
    """
    entries = read_metafile(task)
    names = [entry.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'{name} stands there twice.'
    for kind, (of_task, _, _) in zoo.MODELS.items():
        rows = [entry.metadata['Row'] for entry in entries if entry.kind == kind]
        wanted = ('tiny', 'small', 'base') if kind == 'upernet' else zoo.ROWS
        for row in wanted if of_task == task else ():
            if row not in rows:
                yield f'{kind}: the row {row} is missing.'
    for entry in entries:
        for problem in (*_wrong_words(entry), *_wrong_counts(entry, task, macs)):
            yield f'{entry.name}: {problem}'


def _wrong_words(entry: Entry) -> Iterator[str]:
    if not entry.kind:
        yield f'its row and its config {entry.config} do not belong together.'
        return
    if entry.name != Path(entry.config).stem:
        yield f'it must have the name of its config, {Path(entry.config).stem}.'
    url = zoo.weights_url(entry.kind, entry.metadata['Row'])
    if bool(entry.weights) != bool(entry.metrics):
        yield 'published weights and published results go together.'
    if entry.weights and entry.weights != url:
        yield f'the weights of this row are at {url}, not at {entry.weights}.'
    elif entry.converted_from != entry.weights:
        yield f'Converted From names {entry.converted_from}, but the weights are {entry.weights}.'


def _wrong_counts(entry: Entry, task: str, macs: bool) -> Iterator[str]:
    file = assets_root() / entry.config
    if not file.is_file():
        yield f'the config {entry.config} does not exist.'
        return
    cfg = Config.fromfile(file)
    counted = count_parameters(cfg)
    if counted != entry.metadata['Parameters']:
        yield f'Parameters: {entry.metadata["Parameters"]}, but the model has {counted}.'
    published = entry.metadata.get('Published Parameters (M)')
    if published is not None and abs(counted / 1e6 - published) > 0.1:
        yield f'Published Parameters (M): {published}, but the model has {counted}; see the Notes.'
    if macs:
        key = 'FLOPs' if task == 'cls' else 'Backbone MACs'
        counted = count_macs(cfg, *IMAGES[task])
        if counted != entry.metadata[key]:
            yield f'{key}: {entry.metadata[key]}, but the model has {counted}.'


def count_parameters(cfg: Config) -> int:
    """Trainable parameters of a config's model, which is built without memory."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
    return sum(p.numel() for p in model.parameters())


def count_macs(cfg: Config, height: int, width: int) -> int:
    """Multiply-accumulates of one image through a classifier, or through a host's backbone."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model if cfg.default_scope == 'mmpretrain' else cfg.model.backbone)
    # Shapes run through it, and no numbers: the size of the image costs nothing.
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, 3, height, width)
        return count(model.eval(), lambda model: model(image)).macs


def table_of(task: str) -> str:
    """A task's table in Markdown, with the notes as footnotes."""
    columns = COLUMNS[task]
    heads = ['config', 'params (M)', *(head for head, _ in columns), 'weights']
    lines = [_line(heads), _line([':---', *['---:'] * (len(columns) + 1), ':---'])]
    notes: list[str] = []
    for entry in read_metafile(task):
        marks = []
        for note in entry.notes:
            if note not in notes:
                notes.append(note)
            marks.append(f'<sup>{notes.index(note) + 1}</sup>')
        name = Path(entry.config).name
        lines.append(
            _line(
                [
                    f'[{entry.name}]({name})' + ' '.join(marks),
                    f'{entry.metadata["Parameters"] / 1e6:.2f}',
                    *(_figure(entry, key) for _, key in columns),
                    f'[official]({entry.weights})' if entry.weights else '-',
                ]
            )
        )
    if notes:
        lines.append('')
        lines += [f'<sup>{i}</sup> {note}  ' for i, note in enumerate(notes, 1)]
    return '\n'.join(lines)


def _figure(entry: Entry, key: str) -> str:
    value = entry.metrics.get(key, entry.metadata.get(key))
    if value is None:
        return '-'
    return f'{value / 1e9:.2f}' if isinstance(value, int) and value > 1e6 else str(value)


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cells)} |'


def readme_of(task: str) -> str:
    """A task's README as it should be: the file with its table made anew.

    Raises:
        UserError: There is no README, or the markers are not in it.
    """
    file = _folder(task) / 'README.md'
    if not file.is_file():
        raise UserError(f'{file} is missing: write one, with the lines\n{BEGIN}\n{END}')
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'{file} must have these two lines around its table:\n{BEGIN}\n{END}')
    return f'{before}{BEGIN}\n{table_of(task)}\n{END}{after}'


def readme_is_current(task: str) -> bool:
    """Whether a README holds the table that its metafile gives."""
    return (_folder(task) / 'README.md').read_text() == readme_of(task)


def write_readme(task: str) -> Path:
    """Make the table of a README anew; returns the file."""
    file = _folder(task) / 'README.md'
    file.write_text(readme_of(task))
    return file


def _folder(task: str) -> Path:
    return assets_root() / 'configs' / task
