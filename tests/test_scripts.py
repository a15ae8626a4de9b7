"""The launch scripts and ``tools/demo.py``: which command they start, from whatever directory."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.tool import tool
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

TOOLS = assets_root() / 'tools'
BASH = shutil.which('bash') or pytest.skip('needs bash', allow_module_level=True)
SETTINGS = (
    *('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'GPUS', 'GPUS_PER_NODE', 'SRUN_ARGS'),
    *('REQUEUE', 'SAVE_BEFORE', 'SBATCH_ARGS'),
)


@pytest.fixture
def launch(tmp_path):
    """Runs a script with stand-ins for what it starts, which print their words, one a line."""
    stubs = tmp_path / 'bin'
    stubs.mkdir()
    for name in ('python', 'srun', 'sbatch', 'scontrol'):
        (stubs / name).write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\n')
        (stubs / name).chmod(0o755)

    def call(name, *words, **variables):
        kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        done = subprocess.run(
            [BASH, str(TOOLS / name), *words],
            cwd=tmp_path,
            env={**kept, **variables, 'PATH': f'{stubs}:{os.environ["PATH"]}'},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return call


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_a_script_without_words_says_how_it_is_used(launch, name):
    assert subprocess.run([BASH, '-n', str(TOOLS / name)], check=False).returncode == 0
    code, started, said = launch(name, 'config.py')
    assert (code, started) == (2, [])
    assert f'bash tools/{name} ' in said


@pytest.mark.parametrize(
    ('name', 'first'),
    [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'a b.pth'])],
)
def test_one_machine_takes_a_free_port(launch, name, first):
    script = str(TOOLS / name.removeprefix('dist_').replace('.sh', '.py'))
    code, started, _ = launch(name, *first, '2', '--cfg-options', 'a="b c"')
    assert code == 0
    assert started == [
        *['python', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'],
        *[script, *first, '--launcher', 'pytorch', '--cfg-options', 'a="b c"'],
    ]


@pytest.mark.parametrize(
    ('variables', 'where'),
    [
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='1234'),
            ('2', '1', '10.0.0.1', '1234'),
        ),
        (dict(PORT='1234'), ('1', '0', '127.0.0.1', '1234')),
    ],
)
def test_several_machines_and_a_given_port_meet_at_an_address(launch, variables, where):
    _, started, _ = launch('dist_train.sh', 'c.py', '4', **variables)
    nodes, rank, address, port = where
    assert started[3:8] == [
        f'--nnodes={nodes}',
        f'--node_rank={rank}',
        f'--master_addr={address}',
        f'--master_port={port}',
        '--nproc_per_node=4',
    ]
    assert '--standalone' not in started


def test_slurm_asks_for_no_more_gpus_on_a_node_than_in_all(launch):
    code, started, _ = launch(
        'slurm_train.sh', 'part', 'job', 'c.py', 'w', '--amp', GPUS='2', SRUN_ARGS='-x a -t 1'
    )
    assert code == 0
    assert started == [
        *['srun', '-p', 'part', '--job-name=job', '--gres=gpu:2', '--ntasks=2'],
        *['--ntasks-per-node=2', '--cpus-per-task=5', '--kill-on-bad-exit=1', '-x', 'a', '-t', '1'],
        *['python', '-u', str(TOOLS / 'train.py'), 'c.py', '--work-dir', 'w'],
        *['--launcher', 'slurm', '--amp'],
    ]


def test_slurm_takes_a_run_that_requeues_itself_as_a_batch_job(launch, tmp_path):
    words = ['part', 'job', 'c.py', 'w', '--cfg-options', 'a="b c"']
    code, started, _ = launch('slurm_train.sh', *words, REQUEUE='1', GPUS='2', SAVE_BEFORE='300',
                              SBATCH_ARGS='--time=60')  # fmt: skip
    assert code == 0
    *options, wrapped = started
    assert options == [
        *['sbatch', '-p', 'part', '--job-name=job', '--gres=gpu:2', '--ntasks=2'],
        *['--ntasks-per-node=2', '--cpus-per-task=5', '--requeue', '--open-mode=append'],
        *['--signal=B:USR1@300', '--time=60'],
    ]
    script = str((TOOLS / 'slurm_train.sh').resolve())
    command = wrapped.removeprefix('--wrap=exec ')
    assert shlex.split(command) == ['env', 'REQUEUE=inside', 'bash', script, *words]


@pytest.mark.parametrize(
    ('told', 'code', 'requeued'), [(True, 138, True), (True, 0, False), (False, 1, False)]
)
def test_slurm_requeues_a_run_that_was_told_to_save_and_is_not_complete(
    launch, tmp_path, told, code, requeued
):
    """A stand-in of srun: the batch script is told, and hands it on."""
    wait = f'trap "exit {code}" USR1\nkill -USR1 $PPID\nwhile :; do sleep 0.05; done\n'
    ends = wait if told else f'exit {code}\n'
    srun = tmp_path / 'bin/srun'
    srun.write_text(f'{srun.read_text()}{ends}')
    ended, started, _ = launch(
        'slurm_train.sh', 'part', 'job', 'c.py', 'w', '--amp', REQUEUE='inside', SLURM_JOB_ID='77'
    )
    assert ended == code
    assert '--resume' in started
    assert (started[-3:] == ['scontrol', 'requeue', '77']) is requeued


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """``tools/demo.py`` in another working directory, its commands replaced by their outputs."""
    monkeypatch.chdir(tmp_path)
    module = tool('demo')
    work_dir, task = Path('work_dirs/demo/seg'), TASKS['seg']
    demo = SimpleNamespace(started=[], exit_code=0, trained=0.9, tested=0.9)

    def started(words, check, env):
        demo.started.append(words)
        training = words[1].endswith('train.py')
        file = 'train/1/vis_data/scalars.json' if training else 'test/1/1.json'
        path = work_dir / file.removeprefix('train/')
        path.parent.mkdir(parents=True, exist_ok=True)
        value = demo.trained if training else demo.tested
        path.write_text(json.dumps({task.headline: value}) + '\n')
        (work_dir / 'iter_1.pth').touch()
        return SimpleNamespace(returncode=demo.exit_code)

    monkeypatch.setattr('subprocess.run', started)
    # Below `command`, which turns a UserError into an exit.
    demo.main = lambda: module.main.__wrapped__(['--task', 'seg'])
    return demo


def test_the_demo_starts_our_tools_from_another_directory(demo, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        'paca_mm.analysis.clusters.showcase.showcase', lambda *args: drawn.append(args) or 'a.png'
    )
    demo.trained = demo.tested = TASKS['seg'].demo_goal + 0.01
    demo.main()
    train, test = demo.started
    assert train[:3] == [sys.executable, str(TOOLS / 'train.py'), TASKS['seg'].shapes_config]
    assert test[:2] == [sys.executable, str(TOOLS / 'test.py')]
    assert test[3] == 'work_dirs/demo/seg/iter_1.pth'
    said = capsys.readouterr().out
    assert 'repeats the metrics of the training to the digit' in said
    files = 'work_dirs/demo/seg/iter_1.pth', 'work_dirs/demo/seg/demo.png'
    assert drawn == [(TASKS['seg'].shapes_config, *files)]
    assert f'clusters a.png {TASKS["seg"].shapes_config} {files[0]}' in said


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(exit_code=3), 'exit code 3'),
        (dict(trained=99.0, tested=99.5), 'does not repeat the metrics'),
        (dict(trained=0.0, tested=0.0), 'was to be expected'),
    ],
)
def test_a_demo_that_goes_wrong_says_so(demo, change, message):
    vars(demo).update(change)
    with pytest.raises(UserError, match=message):
        demo.main()
