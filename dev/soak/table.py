"""What happened, as the table of docs/reliability.md."""

import platform
import time
from pathlib import Path

import mmengine
import torch

from paca_mm.files import replacing

from .cycle import Soak
from .faults import KINDS

BEGIN = '<!-- table: make soak -->'
END = '<!-- end of table -->'

POISON = (
    'NaN in the images of a step',
    'the step is left out; the end is that of the undisturbed run with the same NaN',
)


def table(soak: Soak, minutes: float, memory: tuple[float, float] | None, left: int) -> str:
    """What happened, in Markdown."""
    rows = [
        '| fault | promise | injected | survived | lost |',
        '| :--- | :--- | ---: | ---: | ---: |',
    ]
    names = {name: entry[:2] for name, entry in KINDS.items()} | {'poison': POISON}
    total = lost_in_all = 0
    for name, (title, promise) in names.items():
        count = soak.injected[name]
        lost = sum(
            bool(wrong or record['differences'])
            for record in soak.trainings
            for kind_, wrong in record['faults']
            if kind_ == name
        )
        if name == 'poison':
            lost = 2 * sum(
                bool(r['differences']) for r in soak.trainings if r['variant'].endswith('_poisoned')
            )
        if count:
            rows.append(f'| {title} | {promise} | {count} | {count - lost} | {lost} |')
        total, lost_in_all = total + count, lost_in_all + lost
    rows.append(f'| **all** | | **{total}** | **{total - lost_in_all}** | **{lost_in_all}** |')
    same = sum(not record['differences'] for record in soak.trainings)
    rows += [
        '',
        f'{len(soak.trainings)} trainings of {len(soak.variants)} kinds (loops by epoch and by '
        f'iteration, data loaders without and with 2 workers), each resumed after every fault: '
        f'**{same}** ended with the files of the undisturbed one, bit for bit (weights, optimizer, '
        f'schedule, curves, best checkpoint). Processes that were left: **{left}**.',
    ]
    if memory:
        rows += [
            f'Memory of one long training and its workers: {memory[0]:.0f} MB in its first third, '
            f'{memory[1]:.0f} MB in its last.'
        ]
    rows += ['', f'`make soak`, {minutes:.0f} minutes, {where()}.']
    return '\n'.join(rows)


def where() -> str:
    """The machine and the packages."""
    return (
        f'{time.strftime("%Y-%m-%d")}, Python {platform.python_version()}, torch {torch.__version__}, '
        f'mmengine {mmengine.__version__}, {platform.system()} {platform.machine()}'
    )


def write_table(page: Path, text: str) -> None:
    """Put the table between its markers."""
    before, begin, rest = page.read_text('utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f'{page} must have these two lines around its table:\n{BEGIN}\n{END}')
    with replacing(page) as part:
        part.write_text(f'{before}{BEGIN}\n{text}\n{END}{after}', 'utf-8')
