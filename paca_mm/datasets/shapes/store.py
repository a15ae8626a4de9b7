"""Make the dataset once, complete or not at all, and recognise what is there.

A dataset is written into a hidden folder beside its place and moved there in one step, so that no
kill leaves half of one. Of processes that start together, one makes it and the others wait: a lock
stands beside it. The system frees the lock of a process that dies, so what lies in the hidden
folder when the lock is ours belongs to nobody.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from paca_mm.errors import UserError
from paca_mm.files import room
from paca_mm.paths import command_line

from .dataset import FORMAT, RECIPE, ShapesSpec, image_name, write_dataset

DEFAULT_DIR = 'data/shapes'


def make_shapes(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    num_train: int = 320,
    num_val: int = 64,
    size: int = 128,
    force: bool = False,
) -> Path:
    """Make the dataset.

    Args:
        out_dir: where; it appears there complete, or not at all.
        seed, num_train, num_val, size: see :class:`ShapesSpec`.
        force: replace a shapes dataset that is there. Anything else is never touched.

    Returns:
        The folder, absolute.

    Raises:
        UserError: if a value is out of its range, if there is something in `out_dir` (with `force`:
            something that is not ours), or if it cannot be written.
    """
    spec = ShapesSpec(seed, num_train, num_val, size)
    out = _absolute(out_dir)
    _check_free(out, force)
    with _locked(out, spec):
        _write(out, spec, force)
    _check(out, asdict(spec))
    return out


def ensure_shapes(
    out_dir: str | os.PathLike[str] = DEFAULT_DIR,
    seed: int | None = None,
    num_train: int | None = None,
    num_val: int | None = None,
    size: int | None = None,
) -> Path:
    """Make the dataset unless it is there. Safe to be called by several processes at once.

    Args:
        out_dir: where.
        seed, num_train, num_val, size: None for whatever the dataset that is there has, or the
            default of :class:`ShapesSpec` if there is none.

    Returns:
        The folder, absolute.

    Raises:
        UserError: as `make_shapes`; and if a dataset is there but incomplete, of another recipe,
            or with other values than those asked for.
    """
    values = {'seed': seed, 'num_train': num_train, 'num_val': num_val, 'size': size}
    asked = {name: value for name, value in values.items() if value is not None}
    spec = ShapesSpec(**asked)
    out = _absolute(out_dir)
    if not _occupied(out):
        with _locked(out, spec):
            if not _occupied(out):  # another process may have been faster
                _write(out, spec, force=False)
    _check(out, asked)
    return out


def read_info(out_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `shapes.json`: parameters, classes and counts.

    Raises:
        UserError: if the folder holds no shapes dataset.
    """
    out = _absolute(out_dir)
    info = _read(out)
    if info is None:
        raise _foreign(out)
    return info


@contextmanager
def _locked(out: Path, spec: ShapesSpec) -> Iterator[None]:
    """Alone at work on a dataset, among all processes that make it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(out, 'lock')):
            yield
    except OSError as error:
        raise UserError(
            f'The shapes dataset cannot be written to {out}: {error.strerror or error} '
            f'({room(out)}).\n  to fix it: name a folder on a disk that is writable and has room '
            f'for about {_megabytes(spec)} MB.'
        ) from error


def _write(out: Path, spec: ShapesSpec, force: bool) -> None:
    """Make a dataset; what is there stays until the new one is complete, and without `force` on."""
    part = _beside(out, 'part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / 'new').mkdir(parents=True)
        write_dataset(part / 'new', spec)
        if _occupied(out):
            if not force:  # it came meanwhile, from where our lock is not seen; callers look at it
                return
            _check_free(out, force)
            os.replace(out, part / 'old')
        os.replace(part / 'new', out)  # takes the place of an empty folder, too
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_free(out: Path, force: bool) -> None:
    """Raise if there is something in `out`; with `force`, if not all of it is a dataset of ours."""
    if not _occupied(out):
        return
    info = read_info(out)
    if not force:
        raise UserError(
            f'{out} holds a shapes dataset already ({_describe(info)}).\n'
            '  to fix it: add --force to replace it, or name another folder.'
        )
    if foreign := sorted(_files_in(out) - _files(info)):
        raise UserError(
            f'{out} holds {len(foreign)} file(s) that are not part of the shapes dataset, such as '
            f'{foreign[0]}, so it is not replaced.\n'
            '  to fix it: move them away, or name another folder.'
        )


def _check(out: Path, asked: dict[str, int]) -> None:
    """Raise unless `out` is a complete dataset of this recipe and of the values asked for."""
    info = read_info(out)
    cure = (
        f'\n  to fix it: make it again with `{command_line("shapes", str(out), "--force")}`, or name '
        'another folder.'
    )
    if info['recipe'] != RECIPE:
        raise UserError(
            f'The shapes dataset in {out} is of recipe {info["recipe"]}; this version of paca_mm '
            f'makes recipe {RECIPE}.{cure}'
        )
    other = [name for name, value in asked.items() if info[name] != value]
    if other:
        wanted = ', '.join(f'{name} {asked[name]}' for name in other)
        raise UserError(
            f'The shapes dataset in {out} has {_describe(info)}; asked for was {wanted}.{cure}'
        )
    if missing := sorted(_files(info) - _files_in(out)):
        raise UserError(
            f'The shapes dataset in {out} lacks {len(missing)} file(s), such as {missing[0]}.{cure}'
        )


def _read(out: Path) -> dict[str, Any] | None:
    """`shapes.json` of a folder, or None if it is none of ours."""
    try:
        info = json.loads((out / 'shapes.json').read_bytes())
        ours = info['format'] == FORMAT
        for name in ('recipe', 'seed', 'num_train', 'num_val', 'size'):
            ours = ours and isinstance(info[name], int)
        return info if ours and _files(info) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _files(info: dict[str, Any]) -> set[str]:
    """Every file of a dataset, relative to its folder, with slashes."""
    images = {
        f'{folder}/{image_name(number)}'
        for folder, count in info['folders'].items()
        for number in range(1, count + 1)
    }
    return images | set(info['files'])


def _files_in(out: Path) -> set[str]:
    """Every file in a folder, as `_files` names them."""
    return {
        Path(folder, name).relative_to(out).as_posix()
        for folder, _, names in os.walk(out)
        for name in names
    }


def _absolute(out_dir: str | os.PathLike[str]) -> Path:
    # Through links, so that "beside it" is on the same disk and the move is one step.
    return Path(os.path.realpath(os.path.expanduser(out_dir)))


def _occupied(out: Path) -> bool:
    try:
        return out.exists() and not (out.is_dir() and not any(out.iterdir()))
    except PermissionError:
        return True


def _foreign(out: Path) -> UserError:
    if not out.exists():
        return UserError(
            f'There is no shapes dataset in {out}.\n'
            f'  to fix it: make it with `{command_line("shapes", str(out))}`.'
        )
    free = out / 'shapes' if out.is_dir() else out.with_name(out.name + '_shapes')
    return UserError(
        f'{out} exists and is not a shapes dataset (no shapes.json of ours in it). Nothing in it '
        f'was touched.\n  to fix it: name a folder that does not exist or is empty, such as {free}.'
    )


def _describe(info: dict[str, Any]) -> str:
    return ', '.join(f'{name} {info[name]}' for name in ('seed', 'num_train', 'num_val', 'size'))


def _megabytes(spec: ShapesSpec) -> int:
    total = 0
    for folder, count in spec.folders().items():
        side = spec.size // 2 if folder.startswith('imagefolder') else spec.size
        total += count * side * side * (1 if folder.startswith('masks') else 3)
    return 2 + total * 11 // 10_000_000


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f'.{out.name}.{what}')
