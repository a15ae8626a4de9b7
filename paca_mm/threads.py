"""Whether the threads of a CPU computation get the cores that they want.

The threads of one torch operation meet at its end, and the first ones there spin until the last one
comes. Where there are more threads than cores, or other programs on them, an iteration can take thirty
times as long as with one thread. Nothing but the standard library is needed here.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path('/sys/fs/cgroup')

#: A machine is busy when so many programs want each of its cores ...
BUSY_LOAD = 1.5
#: ... and a thread is kept waiting when it waits for a core for so much of its time.
LONG_WAIT = 0.5


def cores() -> int:
    """Those that this process may use: of its affinity, within the quota of a container."""
    known = hasattr(os, 'sched_getaffinity')
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    quota = cgroup_quota(CGROUPS)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(folder: Path) -> float | None:
    """How many cores' time a container may use, by the files of cgroup v2 or v1; None: no limit."""
    for files in (['cpu.max'], ['cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us']):
        with suppress(OSError, ValueError, LookupError, ZeroDivisionError):
            words = ' '.join((folder / file).read_text() for file in files).split()
            if words[0] == 'max' or float(words[0]) <= 0:
                return None
            return float(words[0]) / float(words[1])
    return None


class Situation(NamedTuple):
    """What decides whether threads get their cores.

    Attributes:
        threads: Of one operation of torch, in each process.
        processes: Of a distributed job on this machine.
        cores: Those that they may use.
        machine: All cores of the machine.
        load: Programs that want a core, the average of a minute; None if the system does not say.
        waited: The share of its time, 0 to 1, for which the main thread waited for a core while it
            computed; None if that was not measured.
    """

    threads: int
    processes: int
    cores: int
    machine: int
    load: float | None = None
    waited: float | None = None


def situation(threads: int, waited: float | None = None) -> Situation:
    """That of this process, on Linux in full."""
    load = None
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    processes = int(os.environ.get('LOCAL_WORLD_SIZE') or 1)
    return Situation(threads, processes, cores(), os.cpu_count() or 1, load, waited)


def advice(now: Situation) -> tuple[str, str] | None:
    """What is wrong and how to fix it, or None if all is well.

    Too many threads for the cores are wrong whatever else runs. On a busy machine more than one thread
    is, if the main thread was seen to wait, or, where that was not measured, by the load alone.
    """
    if now.threads == 1:
        return None
    each = max(1, now.cores // now.processes)
    of = f' in each of {now.processes} processes' if now.processes > 1 else ''
    if now.threads > each:
        found = f'torch computes with {now.threads} threads{of}, for {now.cores} cores'
        return f'{found}: they wait for each other', _fewer(each)
    if now.waited is not None:
        busy = now.waited > LONG_WAIT
        seen = f'the threads of torch{of} wait for a core {now.waited:.0%} of the time'
    else:
        busy = now.load is not None and now.load > BUSY_LOAD * now.machine
        seen = f'the {now.threads} threads of torch{of} will wait for a core'
    if not busy:
        return None
    load = '' if now.load is None else f' (load {now.load:.1f} on {now.machine} cores)'
    free = 1 if now.load is None else int(now.machine - now.load)
    return f'{seen}: other programs compute here{load}', _fewer(max(1, min(free, each - 1)))


def _fewer(count: int) -> str:
    return f'export OMP_NUM_THREADS={count} before the command'


def time_waited() -> float | None:
    """Seconds for which the main thread has waited for a core so far; None where nobody counts."""
    try:
        return int(Path('/proc/self/schedstat').read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
