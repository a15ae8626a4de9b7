"""Data loaders that name the file which stops them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from paca_mm.datasets.images import fault_of, loader_of
from paca_mm.errors import UserError


class NamesFile:
    """A pipeline that names the file when one of its steps stumbles over a damaged image.

    Only the files of the sample that failed are looked at, where it failed: in the process of the
    data loader's worker. An error that is not a file's stays as it is.

    Args:
        pipeline: From a sample's settings to the sample.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

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
                if fault := fault_of(file, decode=True, loader=loader):
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
    for dataset in _with_pipeline(loader.dataset):
        if not isinstance(dataset.pipeline, NamesFile):
            dataset.pipeline = NamesFile(dataset.pipeline)
    return loader


def _with_pipeline(dataset: Any) -> Iterable[Any]:
    """The datasets that read files, below their wrappers."""
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    if inner:
        for child in inner:
            yield from _with_pipeline(child)
    elif callable(getattr(dataset, 'pipeline', None)):
        yield dataset
