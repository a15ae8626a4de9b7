"""Make the dataset once, whole or not at all, and recognise what is there.

A dataset is written into a hidden folder beside its place and moved there in one step, so that no
kill leaves half of one and processes that start together do not get in each other's way.
"""

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError

from .dataset import FORMAT, RECIPE, ShapesSpec, image_name, write_dataset

DEFAULT_DIR = 'data/shapes'
_STALE = 24 * 3600  # seconds after which an unfinished folder of ours has no living owner


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
        out_dir: where; it appears there whole, or not at all.
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
    if _occupied(out):
        info = _read(out)
        if info is None:
            raise _foreign(out)
        if not force:
            raise UserError(
                f'{out} holds a shapes dataset already ({_describe(info)}). '
                'Add --force to replace it, or name another folder.'
            )
        _, extra = _compare_files(out, info)
        if extra:
            raise UserError(
                f'{out} holds {len(extra)} file(s) that are not part of the shapes dataset, such '
                f'as {extra[0]}. It is not replaced; move them away, or name another folder.'
            )
    _write(out, spec, replace=force)
    _check(out, asdict(spec))  # another process may have been faster, with other values
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
        _write(out, spec, replace=False)
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


def _write(out: Path, spec: ShapesSpec, replace: bool) -> None:
    unfinished = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        unfinished.mkdir()
        write_dataset(unfinished, spec)
        if replace:
            _move_replacing(unfinished, out)
        else:
            _move(unfinished, out)
    except OSError as error:
        raise UserError(
            f'The shapes dataset cannot be written to {out}: {error.strerror or error}. '
            'Name a folder on a disk that is writable and has room for about '
            f'{_megabytes(spec)} MB.'
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: Path, out: Path) -> None:
    try:
        os.replace(unfinished, out)  # takes the place of an empty folder, too
    except OSError:
        # Another process was faster: its result has the same right. Whether it is what was asked
        # for is checked by the caller.
        if not _occupied(out):
            raise
        if _read(out) is None:
            raise _foreign(out) from None


def _move_replacing(unfinished: Path, out: Path) -> None:
    old = _beside(out)
    if _occupied(out):
        os.replace(out, old)
    try:
        os.replace(unfinished, out)
    except OSError:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check(out: Path, asked: dict[str, int]) -> None:
    """Raise unless `out` is a complete dataset of this recipe and of the values asked for."""
    info = read_info(out)
    cure = f'Make it anew with `python tools/make_shapes.py {out} --force`, or name another folder.'
    if info['recipe'] != RECIPE:
        raise UserError(
            f'The shapes dataset in {out} is of recipe {info["recipe"]}; this version of paca_mm '
            f'makes recipe {RECIPE}. {cure}'
        )
    other = [name for name, value in asked.items() if info[name] != value]
    if other:
        wanted = ', '.join(f'{name} {asked[name]}' for name in other)
        raise UserError(
            f'The shapes dataset in {out} has {_describe(info)}; asked for was {wanted}. {cure}'
        )
    missing, _ = _compare_files(out, info)
    if missing:
        raise UserError(
            f'The shapes dataset in {out} lacks {len(missing)} file(s), such as {missing[0]}. '
            f'{cure}'
        )


def _read(out: Path) -> dict[str, Any] | None:
    """`shapes.json` of a folder, or None if it is not of our making."""
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


def _compare_files(out: Path, info: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The files of a dataset that are missing, and those in its folder that are not its own."""
    found = {
        Path(folder, name).relative_to(out).as_posix()
        for folder, _, names in os.walk(out)
        for name in names
    }
    expected = _files(info)
    return sorted(expected - found), sorted(found - expected)


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
            f'There is no shapes dataset in {out}. '
            f'Make it with `python tools/make_shapes.py {out}`.'
        )
    free = out / 'shapes' if out.is_dir() else out.with_name(out.name + '_shapes')
    return UserError(
        f'{out} exists and is not a shapes dataset (no shapes.json of ours in it). Nothing in it '
        f'was touched. Name a folder that does not exist or is empty, such as {free}.'
    )


def _describe(info: dict[str, Any]) -> str:
    return ', '.join(f'{name} {info[name]}' for name in ('seed', 'num_train', 'num_val', 'size'))


def _megabytes(spec: ShapesSpec) -> int:
    total = 0
    for folder, count in spec.folders().items():
        side = spec.size // 2 if folder.startswith('imagefolder') else spec.size
        total += count * side * side * (1 if folder.startswith('masks') else 3)
    return 2 + total * 11 // 10_000_000


def _beside(out: Path) -> Path:
    return out.with_name(f'.{out.name}.{uuid.uuid4().hex[:12]}.part')


def _sweep(out: Path) -> None:
    """Remove what killed processes left beside `out` long ago."""
    ours = re.compile(re.escape(f'.{out.name}.') + r'[0-9a-f]{12}\.part')
    with contextlib.suppress(OSError):  # others come and go here; it is only tidying
        for path in out.parent.iterdir():
            if ours.fullmatch(path.name) and time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path, ignore_errors=True)
