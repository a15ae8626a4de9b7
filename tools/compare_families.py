"""Train the small model of every family on the embedded dataset, in all its tasks, by one schedule.

A smoke test of learning: whether every family learns, and how steadily, on some hundred small images
of shapes. It says nothing about ImageNet, COCO or ADE20K.

compare_families.py                            everything, three seeds; finished runs are kept
compare_families.py --tasks cls --seeds 0      the classifiers, once
compare_families.py --families paca rapidnet --jobs 2
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paca_mm.cli import command
from paca_mm.engine.config import configs, load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.families import families
from paca_mm.paths import assets_root


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--families', nargs='+', choices=families(), default=list(families()))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument(
        '--jobs', type=int, default=1, help='trainings at a time, sharing the cores'
    )
    parser.add_argument('--work-dir', default='work_dirs/families', help='default: %(default)s')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='for every training, such as train_cfg.max_epochs=10',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UserError(f'--jobs {args.jobs} must be 1 or more.')
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    # Seed by seed, so that a run that is stopped leaves complete columns.
    runs = [
        (path, seed)
        for seed in args.seeds
        for path in small_configs()
        if task_of(path) in args.tasks and family_of(path) in args.families
    ]
    if not runs:
        raise UserError(
            f'none of {", ".join(args.families)} has a small model for {", ".join(args.tasks)}.'
        )
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda run: train(*run, args), runs))
    found = {}
    for (path, _), result in zip(runs, done, strict=True):
        found.setdefault(path, []).append(result)
    for task in args.tasks:
        paths = [path for path in found if task_of(path) == task]
        if paths:
            print(f'\n{table(task, {path: found[path] for path in paths})}')
    how = ' '.join(args.cfg_options) or f'configs/{{{",".join(args.tasks)}}}/_base_/schedules'
    print(f'\nmean and standard deviation over seeds {args.seeds}; schedule: {how}')


def small_configs():
    """The configs of small models: ``configs/<task>/**/*_shapes.py``, PaCa's first."""
    return sorted(
        (p for p in configs() if p.stem.endswith('_shapes')), key=lambda p: (len(p.parts), p)
    )


def task_of(path):
    return path.relative_to(assets_root() / 'configs').parts[0]


def family_of(path):
    """The family whose folder a config lies in; PaCa's lie in the task's own."""
    folder = path.parent.name
    return folder if folder in families() else 'paca'


def train(path, seed, args):
    """Train and return what is known of the run; one that was finished before is not repeated."""
    work_dir = Path(args.work_dir) / task_of(path) / path.stem / f'seed{seed}'
    record = work_dir / 'result.json'
    options = sorted(args.cfg_options)
    if record.is_file():
        kept = json.loads(record.read_text())
        if kept['options'] == options:
            return kept
    words = [
        str(assets_root() / 'tools' / 'train.py'), str(path), '--shapes', '--work-dir', str(work_dir),
        '--cfg-options', f'randomness.seed={seed}', *options,
    ]  # fmt: skip
    print(f'{task_of(path)}: {path.stem}, seed {seed}', flush=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    began = time.monotonic()
    with (work_dir / 'output.txt').open('w') as output:
        ended = subprocess.run(
            [sys.executable, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': threads},
            check=False,
        )
    if ended.returncode:
        raise UserError(
            f'the training of {path.stem} ended with exit code {ended.returncode}; its last words are '
            f'in {work_dir / "output.txt"}.'
        )
    from paca_mm.analysis.logs import last_scalars

    name = TASKS[task_of(path)].headline
    result = dict(
        metric=last_scalars(work_dir, 'train', name)[name],
        minutes=(time.monotonic() - began) / 60,
        options=options,
    )
    record.write_text(json.dumps(result))
    return result


def table(task, results):
    """A line a config: its size, and the metric over the seeds."""
    from paca_mm.analysis.tables import columns

    lines = [[task, 'params M', 'GMACs', TASKS[task].headline, 'spread', 'minutes']]
    for path, runs in results.items():
        values = [run['metric'] for run in runs]
        cost = size_of(path, TASKS[task])
        spread = f'{statistics.stdev(values):.3g}' if len(values) > 1 else '-'
        lines.append([
            path.stem.removesuffix('_shapes'), f'{cost.params / 1e6:.2f}', f'{cost.macs / 1e9:.3f}',
            f'{statistics.mean(values):.3f}', spread,
            f'{statistics.median(run["minutes"] for run in runs):.1f}',
        ])  # fmt: skip
    return columns(lines)


def size_of(path, task):
    """Parameters, and the multiply-accumulates of an image of the embedded dataset."""
    from paca_mm.analysis.build import build
    from paca_mm.analysis.flops import count
    from paca_mm.analysis.toy_inputs import forward

    side = 64 if task.name == 'cls' else 128
    model = build(load_config(str(path))).eval()
    return count(model, lambda m: forward(m, task.name, side, side))


if __name__ == '__main__':
    main()
