"""The tables of ``configs/**/README.md``, made from the metafiles beside them."""

from collections.abc import Iterable
from pathlib import Path

from paca_mm.errors import UserError
from paca_mm.paths import assets_root
from paca_mm.zoo.metafiles import Entry, folder_of, metafiles, read_metafile

BEGIN = '<!-- table: python dev/check_metafiles.py --write -->'
END = '<!-- end of table -->'

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


def table_of(metafile: str) -> str:
    """A metafile's table in Markdown, with the notes as footnotes."""
    columns = COLUMNS[metafile.partition('/')[0]]
    heads = ['config', 'params (M)', *(head for head, _ in columns), 'weights']
    lines = [_line(heads), _line([':---', *['---:'] * (len(columns) + 1), ':---'])]
    notes: list[str] = []
    for entry in read_metafile(metafile):
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


def readme_of(metafile: str) -> str:
    """The README beside a metafile as it should be: the file with its table made again.

    Raises:
        UserError: There is no README, or the markers are not in it.
    """
    file = folder_of(metafile) / 'README.md'
    if not file.is_file():
        raise UserError(f'{file} is missing: write one, with the lines\n{BEGIN}\n{END}')
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'{file} must have these two lines around its table:\n{BEGIN}\n{END}')
    return f'{before}{BEGIN}\n{table_of(metafile)}\n{END}{after}'


def readme_is_current(metafile: str) -> bool:
    """Whether a README holds the table that its metafile gives."""
    return (folder_of(metafile) / 'README.md').read_text() == readme_of(metafile)


def write_readme(metafile: str) -> Path:
    """Make the table of a README again; returns the file."""
    file = folder_of(metafile) / 'README.md'
    file.write_text(readme_of(metafile))
    return file


def model_index() -> str:
    """``model-index.yml`` as it should be: every metafile, for OpenMMLab's tools."""
    lines = (f'  - configs/{metafile}/metafile.yml\n' for metafile in metafiles())
    return 'Import:\n' + ''.join(lines)


def model_index_is_current() -> bool:
    """Whether ``model-index.yml`` names every metafile."""
    return (assets_root() / 'model-index.yml').read_text() == model_index()


def write_model_index() -> Path:
    """Make ``model-index.yml`` again; returns the file."""
    file = assets_root() / 'model-index.yml'
    file.write_text(model_index())
    return file
