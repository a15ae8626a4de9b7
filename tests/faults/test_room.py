"""No room, no rights, a folder that is gone: nothing half written, one message, and no work lost."""

import errno
import logging
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from helpers.limits import files_of
from helpers.tiny import write_config, write_shapes
from helpers.tool import run
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.lock import held
from paca_mm.engine.room import forgive_log, room_for, save_somewhere
from paca_mm.errors import UserError
from paca_mm.files import CannotWrite, make_folder, replacing, writing
from paca_mm.processes import attended

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='limits and locks of POSIX')


def by_text(path):
    path.write_text('x' * 100_000)


def by_torch(path):
    torch.save({'w': torch.zeros(100_000)}, path)


def by_safetensors(path):
    pytest.importorskip('safetensors').torch.save_file({'w': torch.zeros(100_000)}, path)


@pytest.mark.parametrize('write', [by_text, by_torch, by_safetensors])
def test_what_cannot_be_complete_is_absent(tmp_path, write):
    import safetensors.torch  # noqa: F401, which by_safetensors uses

    target = tmp_path / 'a.bin'
    target.write_text('before')
    with (
        pytest.raises(CannotWrite, match=r'a\.bin cannot be written: .* are free\)') as caught,
        files_of(4096),
        replacing(target, '--out') as part,
    ):
        write(part)
    assert str(caught.value).endswith('or name another place by --out.')
    assert [p.name for p in tmp_path.iterdir()] == ['a.bin']
    assert target.read_text() == 'before'


@pytest.mark.parametrize(
    ('number', 'reason', 'cure'),
    [
        (errno.ENOSPC, 'no space is left on the disk', 'remove what is not needed there'),
        (errno.EDQUOT, 'your quota is used up', 'remove what is not needed there'),
        (errno.EROFS, 'the disk can only be read', 'have the disk mounted for writing'),
        (errno.EACCES, 'you have no right to write there', 'see to the folder and its rights'),
        (errno.ENOENT, 'the folder is not there', 'see to the folder and its rights'),
        (errno.EIO, 'the disk reports an error', 'see to the folder and its rights'),
    ],
)
def test_what_the_system_says_becomes_words(tmp_path, number, reason, cure):
    with pytest.raises(CannotWrite, match=reason) as caught, writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert f'to fix it: {cure}' in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError('a'), RuntimeError('size mismatch'), UserError('c')):
        with pytest.raises(type(error)) as caught, writing(tmp_path):
            raise error
        assert caught.value is error
    for error in (FileNotFoundError(errno.ENOENT, 'a', 'image.png'), ConnectionError('b')):
        with pytest.raises(type(error)) as caught, writing(tmp_path, alone=False):
            raise error
        assert caught.value is error
    with pytest.raises(CannotWrite, match='TMPDIR'), writing(tmp_path, alone=False):
        raise OSError(errno.ENOSPC, 'no file is named')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('room')
    write_shapes(folder)
    write_config(folder / 'tiny.py', 'cls')
    (folder / 'file').write_text('no folder')
    return folder


@pytest.fixture(autouse=True)
def _inside(request, monkeypatch):
    if 'folder' in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue('folder'))


@pytest.fixture(scope='module')
def trained(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run('train', 'tiny.py', '--work-dir', 'trained') == 0
    return folder / 'trained/epoch_1.pth'


@pytest.mark.slow
def test_every_command_names_the_place_that_cannot_be_written(trained, folder, capfd):
    for words in (
        ['train', 'tiny.py', '--work-dir', 'file/run'],
        ['test', 'tiny.py', trained, '--work-dir', 'file/run'],
        ['test', 'tiny.py', trained, '--out', 'file/p.pkl'],
        ['test', 'tiny.py', trained, '--show-dir', 'file/shown'],
        ['infer', 'data/shapes/val', 'tiny.py', trained, '--out', 'file/inferred'],
        ['make_shapes', 'file/shapes'],
    ):
        assert run(*words) == 2, words
        err = capfd.readouterr().err
        assert 'cannot be written' in err, words
        assert 'to fix it' in err
        assert 'Traceback' not in err


@pytest.mark.slow
def test_results_without_room_are_absent(trained, folder, capfd):
    with files_of(6000):  # more than what is printed, and less than a drawing
        assert run('infer', 'data/shapes/val', 'tiny.py', trained, '--out', 'inferred') == 2
    assert 'cannot be written' in capfd.readouterr().err
    assert [p.name for p in (folder / 'inferred').iterdir()] == ['predictions.json']
    assert (folder / 'inferred/predictions.json').read_text() == '[]'


@pytest.mark.slow
def test_predictions_are_kept_complete(trained, folder):
    assert run('test', 'tiny.py', trained, '--out', 'p.pkl') == 0
    assert (folder / 'p.pkl').stat().st_size > 100
    assert not list(folder.glob('.p.pkl*'))


@HOOKS.register_module(force=True)
class RemovesTheFolder(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            shutil.rmtree(runner.work_dir)


@pytest.mark.slow
def test_a_removed_folder_is_made_again(folder, capfd):
    write_config(folder / 'gone.py', 'cls', rest=(
        'custom_hooks = [dict(type="RemovesTheFolder")]\n'
        'default_hooks = dict(logger=dict(interval=1))'
    ))  # fmt: skip
    assert run('train', 'gone.py') == 0
    out, err = capfd.readouterr()
    assert 'was removed, and is made again' in out
    assert 'Traceback' not in err
    work_dir = folder / 'work_dirs/gone'
    assert read_checkpoint(work_dir / 'epoch_1.pth')['meta']['iter'] == 6
    (log,) = work_dir.glob('*/*.log')
    assert 'Epoch(val)' in log.read_text()


@pytest.fixture
def full(monkeypatch):
    """A work directory on a full disk: what is written below it fails, as often as one says."""
    put = LocalBackend.put
    left = {}

    def refuse(self, content, path):
        for name in left:
            if f'/{name}/' in str(path) and left[name] > 0:
                left[name] -= 1
                with open(path, 'wb') as file:
                    file.write(content[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, content, path)

    monkeypatch.setattr(LocalBackend, 'put', refuse)
    return left


@pytest.mark.slow
def test_a_checkpoint_without_room_goes_to_the_other_folder_and_is_found_there(full, folder, capfd):
    full['runs/crowded'] = 99
    words = ['train', 'tiny.py', '--work-dir', 'runs/crowded', '--fallback-dir', 'other']
    assert run(*words) == 0
    out = capfd.readouterr().out
    saved = folder / 'other/crowded/epoch_1.pth'
    assert f'saved:    {saved}' in out
    assert 'no space is left on the disk' in out
    assert not list((folder / 'runs/crowded').glob('*.pth*'))
    (folder / 'runs/crowded/last_checkpoint').write_text('')  # it, too, may have had no room
    full['runs/crowded'] = 0
    assert run(*words, '--resume', '--cfg-options', 'train_cfg.max_epochs=2') == 0
    assert 'going on from ' in (out := capfd.readouterr().out)
    assert 'other/crowded/epoch_1.pth\n' in out
    assert read_checkpoint('runs/crowded/epoch_2.pth')['meta']['iter'] == 12


@pytest.mark.slow
def test_a_checkpoint_waits_for_room_and_then_the_run_stops(full, folder, capfd, monkeypatch):
    monkeypatch.setattr('paca_mm.engine.room.PAUSE', 0.01)
    full['waits'] = 3
    assert run('train', 'tiny.py', '--work-dir', 'waits') == 0
    out = capfd.readouterr().out
    assert 'the run waits for room, 5 minutes at most' in out
    assert 'epoch_1.pth' in out
    full['stops'] = 99
    assert run('train', 'tiny.py', '--work-dir', 'stops', '--wait-for-room', '0') == 2
    err = capfd.readouterr().err
    assert 'epoch_1.pth cannot be written: no space is left on the disk (' in err
    assert 'Traceback' not in err
    assert not list((folder / 'stops').glob('**/*.part'))
    assert not (folder / 'stops/.running').exists()


def test_waiting_ends_when_the_run_is_told_to_stop(monkeypatch):
    tried = []

    def save(place):
        tried.append(place)
        raise CannotWrite('full')

    told = iter([False, True, True])
    with pytest.raises(CannotWrite):
        save_somewhere(save, 'a', 'b', given_up=lambda: next(told), warn=str)
    assert tried == ['a', 'b', 'a', 'b']


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a disk that is always full')
def test_a_log_without_room_says_so_once(capfd):
    logger = logging.Logger('test')
    logger.addHandler(logging.FileHandler('/dev/full'))
    forgive_log(logger)
    for _ in range(3):
        logger.warning('words')
    err = capfd.readouterr().err
    assert err.count('the log /dev/full cannot be written (No space left on device)') == 1
    assert 'Traceback' not in err


def test_a_second_run_is_refused_by_name_and_a_dead_one_is_not_in_the_way(tmp_path):
    ready = tmp_path / 'ready'
    process = os.fork()
    if process == 0:
        with held(tmp_path / 'run'):
            child = os.fork()  # a worker, which outlives the run
            if child:
                ready.write_text(str(child))
            time.sleep(60)
            os._exit(0)
    while not (ready.exists() and ready.read_text()):
        time.sleep(0.02)
    named = rf'another run trains in .*: process {process} on'
    with pytest.raises(UserError, match=named), held(tmp_path / 'run'):
        pass
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with held(tmp_path / 'run'), held(tmp_path / 'run'):  # a run may ask twice
        assert (tmp_path / 'run/.running').exists()
    assert not (tmp_path / 'run/.running').exists()
    os.kill(int(ready.read_text()), signal.SIGKILL)


def test_without_locks_a_run_of_this_machine_is_noticed(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('paca_mm.engine.lock.fcntl.lockf', no_locks)
    (tmp_path / '.running').write_text(
        f'{{"host": "{__import__("socket").gethostname()}", "pid": {os.getppid()}}}'
    )
    with pytest.raises(UserError, match=f'process {os.getppid()}'), held(tmp_path):
        pass
    (tmp_path / '.running').write_text('{"host": "elsewhere", "pid": 1}')
    with held(tmp_path):
        pass


class Unsharable:
    """A batch that finds no room in /dev/shm when the queue's thread hands it over."""

    def __reduce__(self):
        raise RuntimeError(
            'unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)'
        )


def test_workers_without_shared_memory_end_the_run_with_a_message(tmp_path, capfd):
    """torch's own would print a traceback and wait for the batch for ever."""
    loader = torch.utils.data.DataLoader([Unsharable()] * 4, 2, num_workers=1, collate_fn=list)
    said = r'too little shared memory(.|\n)*--shm-size'
    with pytest.raises(UserError, match=said), room_for(tmp_path):
        next(iter(attended(loader)))


@pytest.mark.parametrize(
    'said',
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
        'workers are out of shared memory. Please try to raise your shared memory limit.',
        'unable to write to file </torch_8_9_0>: No space left on device (28)',
        'unable to mmap 80 bytes from file </torch_8_9_0>: Cannot allocate memory (12)',
    ],
)
def test_what_torch_says_of_shared_memory(tmp_path, said):
    with pytest.raises(UserError, match='too little shared memory'), room_for(tmp_path):
        raise RuntimeError(said)


def test_a_folder_is_tried_before_there_is_work_to_lose(tmp_path):
    assert list(make_folder(tmp_path / 'a/b').iterdir()) == []
    with pytest.raises(CannotWrite, match='no folder'):
        make_folder(__file__ + '/a')
