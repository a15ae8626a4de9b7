"""The work behind ``paca-mm families``: train every family's small model, and one table a task."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from paca_mm.datasets.shapes import ShapesSpec
from paca_mm.engine.config import configs, load_config
from paca_mm.engine.tasks import TASKS, task_for
from paca_mm.errors import UserError
from paca_mm.families import families, member_named
from paca_mm.paths import assets_root
from paca_mm.processes import followed
from paca_mm.threads import cores

from .build import build
from .flops import Cost, count
from .logs import last_scalars
from .tables import columns
from .toy_inputs import forward


def compare(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    models = [
        model
        for model in small_models()
        if model.task in args.tasks and model.family in args.families
    ]
    if not models:
        raise UserError(
            f'none of {", ".join(args.families)} has a small model for {", ".join(args.tasks)}.'
        )
    # Seed by seed, so that a run that is stopped leaves complete columns.
    runs = [(model, seed) for seed in args.seeds for model in models]
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda run: train(run[0], run[1], args), runs))
    found: dict[SmallModel, list[dict]] = {}
    for (model, _), result in zip(runs, done, strict=True):
        found.setdefault(model, []).append(result)
    for task in args.tasks:
        if of_task := {model: results for model, results in found.items() if model.task == task}:
            print(f'\n{table(task, of_task)}')
    how = ' '.join(args.cfg_options) or f'configs/{{{",".join(args.tasks)}}}/_base_/schedules'
    print(f'\nmean and standard deviation over seeds {args.seeds}; schedule: {how}')


class SmallModel(NamedTuple):
    """A config that trains on the embedded dataset, its task, and the folder of its family."""

    path: Path
    task: str
    family: str

    @property
    def name(self) -> str:
        return self.path.stem


def small_models() -> list[SmallModel]:
    """Those of ``configs/<task>/**/*_shapes.py``, PaCa's first."""
    folders = {family.title: folder for folder, family in families().items()}
    models = []
    for path in configs():
        if path.stem.endswith('_shapes'):
            cfg = load_config(str(path))
            family, _ = member_named(cfg.model.backbone.type.rpartition('.')[2]) or (None, None)
            assert family is not None, f'{path} trains no model of ours'
            models.append(SmallModel(path, task_for(cfg).name, folders[family.title]))
    return sorted(models, key=lambda model: (len(model.path.parts), model.path))


def train(model: SmallModel, seed: int, args: argparse.Namespace) -> dict:
    """Train and return what is known of the run; one that was finished before is not repeated."""
    work_dir = Path(args.work_dir) / model.task / model.name / f'seed{seed}'
    record = work_dir / 'result.json'
    options = sorted(args.cfg_options)
    if record.is_file():
        kept = json.loads(record.read_text())
        if kept['options'] == options:
            return kept
    words = [
        str(assets_root() / 'tools' / 'train.py'), str(model.path), '--shapes',
        '--work-dir', str(work_dir), '--cfg-options', f'randomness.seed={seed}', *options,
    ]  # fmt: skip
    print(f'{model.task}: {model.name}, seed {seed}', flush=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    threads = os.environ.get('OMP_NUM_THREADS') or str(max(1, cores() // args.jobs))
    began = time.monotonic()
    with (work_dir / 'output.txt').open('w') as output:
        ended = subprocess.run(
            [sys.executable, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**followed(), 'OMP_NUM_THREADS': threads},
            check=False,
        )
    if ended.returncode:
        raise UserError(
            f'the training of {model.name} ended with exit code {ended.returncode}; its last words are '
            f'in {work_dir / "output.txt"}.'
        )
    headline = TASKS[model.task].headline
    result = dict(
        metric=last_scalars(work_dir, 'train', headline)[headline],
        minutes=(time.monotonic() - began) / 60,
        options=options,
    )
    record.write_text(json.dumps(result))
    return result


def table(task: str, results: dict[SmallModel, list[dict]]) -> str:
    """A line a model: its size, and the metric over the seeds."""
    lines = [[task, 'params M', 'GMACs', TASKS[task].headline, 'spread', 'minutes']]
    for model, runs in results.items():
        values = [run['metric'] for run in runs]
        cost = size_of(model)
        spread = f'{statistics.stdev(values):.3g}' if len(values) > 1 else '-'
        lines.append([
            model.name.removesuffix('_shapes'), f'{cost.params / 1e6:.2f}', f'{cost.macs / 1e9:.3f}',
            f'{statistics.mean(values):.3f}', spread,
            f'{statistics.median(run["minutes"] for run in runs):.1f}',
        ])  # fmt: skip
    return columns(lines)


def size_of(model: SmallModel) -> Cost:
    """Parameters, and the multiply-accumulates of an image of the embedded dataset."""
    side = ShapesSpec.size // 2 if model.task == 'cls' else ShapesSpec.size
    built = build(load_config(str(model.path))).eval()
    return count(built, lambda m: forward(m, model.task, side, side))
