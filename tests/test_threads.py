"""Threads that do not get their cores: who notices, and who says nothing where all is well."""

from types import SimpleNamespace

import pytest
import torch

from paca_mm import environment, threads
from paca_mm.engine.hooks import ThreadsHook
from paca_mm.threads import Situation, advice, cgroup_quota


@pytest.mark.parametrize(
    'now',
    [
        Situation(threads=2, processes=1, cores=2, machine=2, load=0.3),
        Situation(threads=2, processes=1, cores=2, machine=2, load=2.5),  # its own, and a loader's
        Situation(threads=2, processes=1, cores=2, machine=64, load=30.0),
        Situation(threads=1, processes=1, cores=2, machine=2, load=11.0, waited=0.9),
        Situation(threads=2, processes=1, cores=2, machine=2, load=11.0, waited=0.05),
        Situation(threads=4, processes=2, cores=8, machine=8, load=None),
        Situation(threads=1, processes=8, cores=2, machine=2, load=4.0),
    ],
)
def test_all_is_well(now):
    assert advice(now) is None


@pytest.mark.parametrize(
    ('now', 'found', 'count'),
    [
        (Situation(64, 1, 2, 64, 1.0), '64 threads, for 2 cores', 2),
        (Situation(8, 4, 8, 8, 1.0), '8 threads in each of 4 processes, for 8 cores', 2),
        (Situation(2, 1, 2, 2, 11.0), 'load 11.0 on 2 cores', 1),
        (Situation(2, 1, 2, 2, 11.0, waited=0.8), 'wait for a core 80% of the time', 1),
        (Situation(8, 1, 8, 8, 13.0), 'load 13.0 on 8 cores', 1),
        (Situation(16, 1, 16, 16, 10.0, waited=0.7), 'load 10.0 on 16 cores', 6),
        (Situation(4, 1, 4, 4, None, waited=0.7), 'wait for a core 70%', 1),
    ],
)
def test_what_is_wrong_is_said_with_the_number_to_set(now, found, count):
    fault, cure = advice(now)
    assert found in fault
    assert cure == f'export OMP_NUM_THREADS={count} before the command'


@pytest.mark.parametrize(
    ('files', 'quota'),
    [
        ({'cpu.max': '200000 100000\n'}, 2.0),
        ({'cpu.max': 'max 100000\n'}, None),
        ({'cpu/cpu.cfs_quota_us': '150000\n', 'cpu/cpu.cfs_period_us': '100000\n'}, 1.5),
        ({'cpu/cpu.cfs_quota_us': '-1\n', 'cpu/cpu.cfs_period_us': '100000\n'}, None),
        ({'cpu.max': ''}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_quota(tmp_path) == quota


def test_a_quota_counts_as_cores(tmp_path, monkeypatch):
    (tmp_path / 'cpu.max').write_text('50000 100000')
    monkeypatch.setattr(threads, 'CGROUPS', tmp_path)
    assert threads.cores() == 1


@pytest.fixture
def clocks(monkeypatch):
    """Iterations of a second each, of which the main thread waits for ``waits`` seconds."""
    clock = SimpleNamespace(waits=0.0, now=0.0, waited=0.0)
    monkeypatch.setattr(threads, 'time_waited', lambda: clock.waited)
    monkeypatch.setattr('time.monotonic', lambda: clock.now)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    monkeypatch.setattr(
        threads, 'situation', lambda count, waited: Situation(count, 1, 2, 2, 11.0, waited)
    )
    return clock


def notes_of(clock, iters):
    said = []
    runner = SimpleNamespace(logger=SimpleNamespace(warning=said.append))
    hook = ThreadsHook()
    for i in range(iters):
        hook.before_train_iter(runner, i)
        clock.now += 1
        clock.waited += clock.waits if i else 1.0  # the first is not like the others
        hook.after_train_iter(runner, i)
    return said


def test_the_first_iterations_say_it_once(clocks):
    clocks.waits = 0.75
    (note,) = notes_of(clocks, 20)
    assert 'wait for a core 75% of the time' in note
    assert note.endswith('To fix it: export OMP_NUM_THREADS=1 before the command.')


def test_a_run_that_gets_its_cores_hears_nothing(clocks):
    assert notes_of(clocks, 20) == []


def test_the_doctor_warns_and_says_how_many(monkeypatch):
    monkeypatch.setattr(threads, 'situation', lambda count: Situation(64, 1, 2, 64, 1.0))
    (check,) = environment.check_threads()
    assert check.status == 'warn'
    assert '64 threads, for 2 cores' in check.found
    assert 'export OMP_NUM_THREADS=2' in check.cure
    monkeypatch.setattr(threads, 'situation', lambda count: Situation(2, 1, 2, 2, 0.25))
    (check,) = environment.check_threads()
    assert (check.status, check.found) == ('ok', '2 of torch, 2 cores, load 0.2')
