"""Train, evaluate and draw a small model on the embedded dataset: minutes, and no download.

The three steps are the commands that anyone would type; each is shown before it runs.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from paca_mm.analysis.logs import last_scalars
from paca_mm.cli import command
from paca_mm.engine.launch import last_checkpoint
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.paths import assets_root


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=TASKS, default='det', help='default: %(default)s')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    return parser.parse_args(argv)


def run(tool, *words):
    script = str(assets_root() / 'tools' / tool)
    print('\n$ python ' + shlex.join([os.path.relpath(script), *words]), flush=True)
    done = subprocess.run([sys.executable, script, *words], check=False)
    if done.returncode:
        raise UserError(f'the command above ended with exit code {done.returncode}; it says why.')


@command
def main(argv=None):
    args = parse_args(argv)
    began = time.monotonic()
    task = TASKS[args.task]
    config = task.shapes_config
    work_dir = str(Path(args.work_dir) / args.task)
    images = str(Path(work_dir) / 'pictures')
    run('train.py', config, '--work-dir', work_dir)
    trained = last_scalars(work_dir, 'train', task.headline)
    checkpoint = last_checkpoint(work_dir)
    tests = str(Path(work_dir) / 'test')
    run('test.py', config, checkpoint, '--work-dir', tests, '--show-dir', images)
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
        raise UserError(f'test.py does not repeat the metrics of the training: {differing}')
    print('test.py repeats the metrics of the training to the digit')
    if tested[name] < goal:
        raise UserError(f'{name} is {tested[name]:g}, but {goal:g} was to be expected.')


if __name__ == '__main__':
    main()
