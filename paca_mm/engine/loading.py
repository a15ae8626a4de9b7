"""Data loaders that name the file which stops them."""

import logging
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from paca_mm.datasets.images import fault_of, loader_of
from paca_mm.errors import UserError
from paca_mm.paths import command_line

#: Files that a training passes over before it stops; ``max_skipped`` in a config.
MAX_SKIPPED = 10


class SkippedFiles:
    """The files that a training has passed over, in all processes of its data loaders.

    They are kept in a file, to which each worker appends: a worker is a process of its own, made by
    ``fork`` or not.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MAX_SKIPPED) -> None:
        self.most = most
        handle, self._path = tempfile.mkstemp(prefix='paca_mm_skipped_')
        os.close(handle)
        weakref.finalize(self, _remove_as, os.getpid(), self._path)

    def __call__(self) -> list[str]:
        """The files, each with what is wrong with it."""
        with open(self._path, encoding='utf-8') as file:
            return list(dict.fromkeys(file.read().splitlines()))

    def add(self, file: str, fault: str) -> None:
        """Pass over one more.

        Raises:
            UserError: There are more than there may be; the message lists all of them.
        """
        with open(self._path, 'a', encoding='utf-8') as kept:
            kept.write(f'{file} {fault}\n')
        skipped = self()
        if len(skipped) > self.most:
            files = '\n  '.join(skipped)
            raise UserError(
                f'{len(skipped)} files cannot be read, and max_skipped={self.most} of them may be '
                f'passed over:\n  {files}\n'
                '  to fix it: fetch these files again, or remove them and their annotations '
                f'({command_line("check-dataset", "CONFIG")} finds all of them); '
                'max_skipped=N in the config to go on.'
            )
        print_log(
            f'{file} {fault}: another image takes its place ({len(skipped)} of at most {self.most} '
            'that are passed over).',
            logger='current',
            level=logging.WARNING,
        )


def _remove_as(process: int, path: str) -> None:
    """Remove a file at the end of the process that made it, not at the end of a worker."""
    if os.getpid() == process:
        with suppress(OSError):
            os.unlink(path)


class NamesFile:
    """A pipeline that names the file when one of its steps stumbles over a damaged image.

    Only the files of the sample that failed are looked at, where it failed: in the process of the
    data loader's worker. An error that is not a file's stays as it is.

    Args:
        pipeline: From a sample's settings to the sample.
        skipped: Where to note damaged files, and go on: the sample is None, for which the host's
            dataset takes another one. Without it, a damaged file is an error.
    """

    def __init__(self, pipeline: Any, skipped: SkippedFiles | None = None) -> None:
        self.pipeline = pipeline
        self.skipped = skipped

    def __getattr__(self, name: str) -> Any:  # hosts ask a pipeline for its transforms
        if name == 'pipeline':  # not there yet: while it is unpickled in a worker
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def __call__(self, sample: Any) -> Any:
        files = list(self._files_of(sample))  # before the steps change it
        try:
            return self.pipeline(sample)
        except UserError:
            raise
        except Exception as error:
            for file, loader in files:
                if not (fault := fault_of(file, decode=True, loader=loader)):
                    continue
                if self.skipped is not None:
                    self.skipped.add(file, fault)
                    return None
                raise UserError(
                    f'{file} {fault}.\n'
                    '  to fix it: fetch the file again, or remove it and its annotations.'
                ) from error
            raise

    def _files_of(self, sample: Any) -> Iterator[tuple[str, str | None]]:
        """The files of a sample, and what each is decoded with."""
        loader = loader_of(getattr(self.pipeline, 'transforms', ()))
        if isinstance(sample, Mapping):
            for key, of_key in (('img_path', loader), ('seg_map_path', 'pillow')):
                if isinstance(sample.get(key), str):
                    yield sample[key], of_key


def naming_files(loader: DataLoader) -> DataLoader:
    """Let the pipelines of a loader's datasets name files that cannot be read; returns the loader."""
    for dataset in with_pipeline(loader.dataset):
        if not isinstance(dataset.pipeline, NamesFile):
            dataset.pipeline = NamesFile(dataset.pipeline)
    return loader


def skipping_files(loader: DataLoader, most: int = MAX_SKIPPED) -> SkippedFiles:
    """Let a loader that trains pass over files that cannot be read; returns where they are noted.

    Another sample takes the place of one, which mmengine's datasets draw. A dataset that does not,
    or that is tested on, goes on to stop at the first.
    """
    skipped = SkippedFiles(most)
    for dataset in with_pipeline(naming_files(loader).dataset):
        if isinstance(dataset, BaseDataset) and not dataset.test_mode:
            dataset.pipeline.skipped = skipped
    return skipped


def with_pipeline(dataset: Any) -> Iterable[Any]:
    """The datasets that read files, below their wrappers."""
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    if inner:
        for child in inner:
            yield from with_pipeline(child)
    elif callable(getattr(dataset, 'pipeline', None)):
        yield dataset
