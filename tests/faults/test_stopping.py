"""A run that is told to stop saves first, and takes all its processes with it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from helpers.tiny import write_config, write_shapes
from helpers.tool import job, run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.stopping import Listener
from paca_mm.paths import assets_root
from paca_mm.processes import WorkerInit, follow_launcher

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')


@HOOKS.register_module(force=True)
class SignalsItself(Hook):
    """What a scheduler does, at a known moment."""

    def __init__(self, signum, train=-1, val=-1):
        self.signum, self.train, self.val = signum, train, val

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.train:
            os.kill(os.getpid(), self.signum)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.val:
            os.kill(os.getpid(), self.signum)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('stopped')
    write_shapes(folder)
    return folder


@pytest.fixture
def stopped(folder, monkeypatch, capfd):
    """Trains a tiny classifier, six steps an epoch, that signals itself."""
    monkeypatch.chdir(folder)

    def train(name, rest='', *words, **signals):
        hook = f'custom_hooks = [dict(type="SignalsItself", **{signals!r})]' if signals else ''
        write_config(folder / f'{name}.py', 'cls', rest=f'{rest}\n{hook}')
        code = run('train', f'{name}.py', *words)
        out, err = capfd.readouterr()
        assert 'Traceback' not in err
        return code, out, err, folder / 'work_dirs' / name

    # As in a terminal: what was started in the background of a script ignores SIGINT.
    usual = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield train
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == usual


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'code'), [('SIGTERM', 143), ('SIGINT', 130), ('SIGUSR1', 138)])
def test_a_signal_saves_the_step_and_the_run_goes_on(stopped, name, code):
    ended, out, err, work_dir = stopped(name, signum=int(getattr(signal, name)), train=2)
    assert ended == code
    assert f'{name}: the run saves at the end of this step' in err
    saved = work_dir / 'iter_3.pth'
    assert f'saved:    {saved}' in out
    assert re.search(rf'go on:    .* train {name}\.py --resume\n', out)
    assert read_checkpoint(saved)['meta']['iter'] == 3
    assert not (work_dir / '.running').exists()
    if name == 'SIGTERM':
        ended, out, _, _ = stopped(name, '', '--resume')
        assert ended == 0
        assert re.search(rf'going on from .*work_dirs/{name}/{saved.name}\n', out)
        assert read_checkpoint(work_dir / 'epoch_1.pth')['meta']['iter'] == 6


@pytest.mark.slow
def test_a_signal_in_the_last_step_of_an_epoch_leaves_in_its_validation(stopped):
    code, out, _, work_dir = stopped('last', signum=int(signal.SIGTERM), train=5)
    assert code == 143
    assert f'saved:    {work_dir / "epoch_1.pth"}' in out  # no second one of the same step
    assert sorted(p.name for p in work_dir.glob('*.pth')) == ['epoch_1.pth']


@pytest.mark.slow
def test_a_signal_in_a_validation_leaves_at_once_and_saves_what_was_not_saved(stopped):
    rest = 'default_hooks = dict(checkpoint=dict(interval=9, save_last=False))'
    code, out, _, work_dir = stopped('val', rest, signum=int(signal.SIGTERM), val=0)
    assert code == 143
    assert 'accuracy/top1' not in out
    assert [p.name for p in work_dir.glob('*.pth')] == ['iter_6.pth']


@pytest.mark.slow
def test_a_signal_that_is_ignored_on_purpose_stays_so(stopped):
    """As nohup does, and a shell of what it starts in the background."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code, _, err, _ = stopped('nohup', signum=int(signal.SIGINT), train=2)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert code == 0
    assert 'the run saves' not in err


@pytest.mark.slow
def test_a_config_may_leave_the_hook_out(stopped):
    heard = []
    usual = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        code, out, _, _ = stopped('deaf', 'default_hooks = dict(stop=None)', signum=10, train=2)
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert (code, heard) == (0, [1])
    assert 'done in' in out


def forked(work):
    """Runs a function in a process of its own; returns its number."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(99)
    return process


def test_a_second_signal_leaves_at_once(monkeypatch):
    def work():
        listener = Listener()
        listener.listen([signal.SIGTERM, signal.SIGUSR1])
        for name in ('SIGUSR1', 'SIGUSR1', 'SIGTERM'):  # together: one request
            os.kill(os.getpid(), getattr(signal, name))
        assert listener.signal == signal.SIGUSR1
        listener._since -= 60
        os.kill(os.getpid(), signal.SIGUSR1)  # slurm's is no impatience
        assert listener.signal == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    _, status = os.waitpid(forked(work), 0)
    assert os.waitstatus_to_exitcode(status) == 143


def test_signals_that_others_listen_to_are_theirs():
    theirs = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGUSR1, theirs)
    try:
        listener = Listener()
        listener.listen([signal.SIGUSR1, signal.SIGTERM])
        assert signal.getsignal(signal.SIGUSR1) is theirs
        listener.stop()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


needs_linux = pytest.mark.skipif(
    sys.platform != 'linux', reason='parent-death signals are of Linux'
)


def gone(process, within=20):
    """Whether a process ends."""
    for _ in range(int(within * 20)):
        try:
            if Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@needs_linux
def test_a_rank_is_told_when_its_launcher_dies(tmp_path):
    ready = tmp_path / 'ready'

    def launcher():
        os.environ['TORCHELASTIC_RUN_ID'] = '1'

        def rank():
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            follow_launcher()
            ready.with_suffix('.part').write_text(str(os.getpid()))
            ready.with_suffix('.part').rename(ready)
            time.sleep(60)

        forked(rank)
        time.sleep(60)

    process = forked(launcher)
    while not ready.exists():
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert gone(int(ready.read_text()))


WORKER = """
import multiprocessing, os, sys, time
from paca_mm.processes import WorkerInit

def work(begin):
    begin(0)
    print(f'{os.getpid()}\\n', end='', flush=True)
    time.sleep(60)

if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    worker = context.Process(target=work, args=(WorkerInit(),), daemon=True)
    worker.start()
    time.sleep(60)
"""


@needs_linux
@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_workers_end_with_the_run_and_not_before(tmp_path, method):
    script = tmp_path / 'worker.py'
    script.write_text(WORKER)
    run = subprocess.Popen([sys.executable, script, method], stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline())
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker, signum)  # as with the group of the run
    time.sleep(0.1)
    assert not gone(worker, within=0.2)
    run.kill()
    run.wait()
    run.stdout.close()
    assert gone(worker)


def test_a_loaders_own_function_is_called(monkeypatch):
    called = []
    monkeypatch.setattr('paca_mm.processes.die_with_parent', lambda *_: True)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)]
    queue = sys.modules['multiprocessing.queues'].Queue
    monkeypatch.setattr(queue, '_on_queue_feeder_error', queue._on_queue_feeder_error)
    try:
        WorkerInit(called.append)(3)
    finally:
        for signum, handler in zip(
            (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM), before, strict=True
        ):
            signal.signal(signum, handler)
    assert called == [3]


@needs_linux
@pytest.mark.slow
def test_a_group_that_is_told_to_end_saves_and_leaves_no_process(folder):
    """What slurm, torchrun and a terminal do: the workers are signalled with the run."""
    write_config(folder / 'group.py', 'cls', rest=(
        'train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True)\n'
        'train_cfg = dict(max_epochs=10000, val_interval=10000)\n'
        'default_hooks = dict(checkpoint=dict(interval=10000), logger=dict(interval=1))'
    ))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, assets_root() / 'tools/train.py', 'group.py'],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if 'Epoch(train)' in line:
            break
    everybody = [p for p in Path('/proc').iterdir() if p.name.isdigit()]
    members = [int(p.name) for p in everybody if group(p) == process.pid]
    assert len(members) >= 3
    os.killpg(process.pid, signal.SIGTERM)
    said += process.stdout.read()
    text = ''.join(said)
    assert process.wait() == 143, text
    assert 'Traceback' not in text
    assert 'stopped by SIGTERM' in text
    assert len(list((folder / 'work_dirs/group').glob('iter_*.pth'))) == 1
    assert all(gone(member) for member in members)


def group(process):
    try:
        return int((process / 'stat').read_text().rpartition(')')[2].split()[2])
    except (OSError, ValueError):
        return None


RANKS = """
import os, signal, sys
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class OneIsTold(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1 and os.environ['RANK'] == '1':
            os.kill(os.getpid(), signal.SIGTERM)

from paca_mm.cli import front
front('train')(['ranks.py', '--launcher', 'pytorch'])
"""


@pytest.mark.slow
def test_all_ranks_save_one_checkpoint_of_one_step(folder):
    rest = 'custom_hooks = [dict(type="OneIsTold")]\ntrain_cfg = dict(max_epochs=5)'
    write_config(folder / 'ranks.py', 'cls', rest=rest)
    (folder / 'ranks_run.py').write_text(RANKS)
    done = job(2, folder / 'ranks_run.py', cwd=folder)
    assert done.returncode == 143, done.stderr[-2000:]
    assert done.stdout.count('stopped by SIGTERM') == 1
    assert 'go on:    bash ' in done.stdout
    (saved,) = (folder / 'work_dirs/ranks').glob('*.pth')
    # One is told in step 2, all know in step 3, which is the last of an epoch: the next one is saved.
    assert read_checkpoint(saved)['meta']['iter'] == 4
