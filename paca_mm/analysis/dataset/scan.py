"""Reading every file once, by several processes, so that a stopped scan goes on where it was."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import Size, fault_of, is_deep, size_of
from paca_mm.datasets.labels import Mask, look_at_mask


class Job(NamedTuple):
    """A file to read.

    Attributes:
        path: The file.
        loader: What decodes it in a run; see :func:`~paca_mm.datasets.images.loader_of`.
        image: The image that it is the mask of; None where it is an image itself.
    """

    path: str
    loader: str | None = None
    image: str | None = None


def scan(
    jobs: Iterable[Job],
    kept: Path,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> 'Scanned':
    """Read files that were not read before.

    Args:
        jobs: The files.
        kept: The file with a line for each that was read. A file that has changed since is read again.
        workers: Number of processes.
        advance: Is told how many more files are done.
    """
    done: dict[str, dict[str, Any]] = {}
    if kept.is_file():
        for line in kept.read_text('utf-8').splitlines():
            with suppress(ValueError, KeyError):  # the last line of a scan that was killed
                record = json.loads(line)
                done[record['key']] = record
    wanted = {_key(job): job for job in jobs}
    open_jobs = [job for key, job in wanted.items() if not _is_current(done.get(key), job)]
    advance(len(wanted) - len(open_jobs))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with open(kept, 'a', encoding='utf-8') as file:
        if kept.stat().st_size:
            file.write('\n')  # behind what may be half a line
        for record in _all(open_jobs, workers):
            done[record['key']] = record
            file.write(json.dumps(record) + '\n')
            file.flush()
            advance(1)
    return Scanned({key: done[key] for key in wanted})


def _all(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    if workers < 2 or len(jobs) < 2 * workers:
        yield from map(_read, jobs)
        return
    chunk = max(1, min(64, len(jobs) // (workers * 8)))
    # Not by fork: the libraries of this process have threads by now.
    context = multiprocessing.get_context('forkserver')
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_read, jobs, chunksize=chunk)


def _key(job: Job) -> str:
    return f'{job.image or job.loader}:{job.path}'


def _stamp(path: str) -> list[int]:
    try:
        state = os.stat(path)
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]


def _is_current(record: Any, job: Job) -> bool:
    return bool(record) and record['stamp'] == _stamp(job.path) != []


def _read(job: Job) -> dict[str, Any]:
    """All that is known of a file, as plain data."""
    record: dict[str, Any] = {
        'key': _key(job),
        'path': job.path,
        'stamp': _stamp(job.path),
    }
    if job.image is not None:
        mask = look_at_mask(job.image, job.path)
        record['counts'] = list(mask.counts.items())
        record['mask_fault'] = mask.fault.as_dict() if mask.fault else None
        return record
    record['fault'] = fault_of(job.path, decode=True, loader=job.loader)
    record['size'] = size_of(job.path)
    record['deep'] = is_deep(job.path)
    with suppress(OSError), open(job.path, 'rb') as file:
        record['digest'] = hashlib.sha1(file.read(), usedforsecurity=False).hexdigest()
    return record


class Scanned(Glance):
    """What was found of all files, instead of a look at some of them."""

    most_images = None
    most_masks = None

    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self._images: dict[str, dict[str, Any]] = {}
        self._masks: dict[str, dict[str, Any]] = {}
        for record in records.values():
            (self._masks if 'counts' in record else self._images)[record['path']] = record

    def faults(self, files: Sequence[str], loader: str | None) -> list[str | None]:
        return [self._images[file]['fault'] for file in files]

    def sizes(self, files: Sequence[str]) -> list[Size | None]:
        sizes = [self._images[file]['size'] for file in files]
        return [Size(*size) if size else None for size in sizes]

    def deep(self, files: Sequence[str]) -> list[bool]:
        return [self._images[file]['deep'] for file in files]

    def masks(self, pairs: Sequence[tuple[str, str]]) -> list[Mask]:
        return [self._mask(mask) for _, mask in pairs]

    def digest(self, file: str) -> str | None:
        """A number that two files share if they are the same."""
        return self._images[file].get('digest')

    def _mask(self, file: str) -> Mask:
        record = self._masks[file]
        fault = record['mask_fault']
        counts = {int(number): count for number, count in record['counts']}
        return Mask(counts, Fault.of_dict(fault) if fault else None)
