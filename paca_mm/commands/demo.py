"""Train, evaluate and draw a small model on the embedded dataset: minutes, and no download.

The three steps are the commands that anyone would type; each is shown before it runs. At the end is one
picture: an image, its prediction and the clusters that it was made from.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from paca_mm.errors import UserError
from paca_mm.paths import COMMANDS, assets_root, command_line
from paca_mm.processes import followed

EXAMPLES = ['', '--task seg']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--task', choices=['det', 'seg', 'cls'], default='det', help='default: %(default)s'
    )
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')


def run(args: argparse.Namespace) -> None:
    from paca_mm.analysis.logs import last_scalars
    from paca_mm.engine.launch import last_checkpoint
    from paca_mm.engine.tasks import TASKS

    began = time.monotonic()
    task = TASKS[args.task]
    config = task.shapes_config
    work_dir = str(Path(args.work_dir) / args.task)
    images = str(Path(work_dir) / 'pictures')
    start('train', config, '--work-dir', work_dir)
    trained = last_scalars(work_dir, 'train', task.headline)
    checkpoint = str(last_checkpoint(work_dir))
    tests = str(Path(work_dir) / 'test')
    start('test', config, checkpoint, '--work-dir', tests, '--show-dir', images)
    tested = last_scalars(tests, 'test', task.headline)

    name, goal = task.headline, task.demo_goal
    differing = {
        key: (trained[key], value)
        for key, value in tested.items()
        if key in trained and not key.endswith('time') and value != trained[key]
    }
    print(f'\n{name} {tested[name]:g} after {(time.monotonic() - began) / 60:.1f} minutes in all')
    print('predictions beside the ground truth:', images)
    if differing:
        raise UserError(f'the test does not repeat the metrics of the training: {differing}')
    print('the test repeats the metrics of the training to the digit')
    if tested[name] < goal:
        raise UserError(f'{name} is {tested[name]:g}, but {goal:g} was to be expected.')

    from paca_mm.analysis.clusters.showcase import showcase

    picture = str(Path(work_dir) / 'demo.png')
    image = showcase(config, checkpoint, picture)
    print(f'an image, its prediction and its clusters side by side: {picture}')
    print(f'to look closer:\n  {command_line("clusters", image, config, checkpoint)}')


def start(name: str, *words: str) -> None:
    """Show a command of ours as it is typed, and run it."""
    print(f'\n$ {command_line(name, *words)}', flush=True)
    script = assets_root() / 'tools' / f'{COMMANDS[name]}.py'
    done = subprocess.run([sys.executable, str(script), *words], check=False, env=followed())
    if done.returncode:
        raise UserError(f'the command above ended with exit code {done.returncode}; it says why.')
