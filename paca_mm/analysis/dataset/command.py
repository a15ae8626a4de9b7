"""What ``paca-mm check-dataset`` does."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paca_mm.engine.config import default_work_dir, load_config
from paca_mm.files import make_folder
from paca_mm.threads import cores

from .report import write_report
from .survey import survey


def check(args: argparse.Namespace) -> int:
    """Look at the datasets, print and write the report; returns the exit code."""
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    out = Path(args.out or Path(default_work_dir(args.config, args.shapes)) / 'data')
    workers = max(args.workers or cores(), 1)
    make_folder(out, '--out')
    bar = Progress(
        TextColumn('reading'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task('reading')
        found = survey(
            cfg,
            args.phases,
            out / 'files.jsonl',
            workers,
            begin=lambda count: bar.update(task, total=count),
            advance=lambda count: bar.advance(task, count),
        )
    print(write_report(found, out))
    print(f'\nthe report, as a page with the images: {out / "report.html"}')
    return int(found.fatal)
