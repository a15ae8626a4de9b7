"""What ``paca-mm check-dataset`` does."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paca_mm.datasets.shapes import DEFAULT_DIR, ensure_shapes
from paca_mm.engine.config import load_config
from paca_mm.engine.data_checks import datasets_of

from .report import write_report
from .survey import survey


def check(args: argparse.Namespace) -> int:
    """Look at the datasets, print and write the report; returns the exit code."""
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    _make_shapes(cfg, args.phases)
    name = Path(args.config).stem + ('_on_shapes' if args.shapes else '')
    out = Path(args.out or Path('work_dirs') / name / 'data')
    workers = max(args.workers or len(os.sched_getaffinity(0)), 1)
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


def _make_shapes(cfg: Config, phases: list[str]) -> None:
    for phase in phases:
        for dataset, _ in datasets_of(cfg.get(f'{phase}_dataloader'), ''):
            if Path(dataset.get('data_root') or '').is_relative_to(DEFAULT_DIR):
                ensure_shapes(DEFAULT_DIR)
