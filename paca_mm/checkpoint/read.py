"""Reading checkpoint files without running what is in them; see :mod:`.unpickle`.

An archive, torch's format since 1.6, carries a CRC-32 of every tensor, which is compared: damage inside
a file is seen. Files of the older format and safetensors carry none, so that of them only the structure
and the sizes are checked. ``PACA_MM_SKIP_CRC=1`` in the environment reads archives without comparing.
"""

import io
import json
import mmap
import os
import stat
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from paca_mm.errors import UserError, did_you_mean

from .download import downloaded, is_text_instead, is_url
from .metadata import from_strings
from .unpickle import Damaged, Refused, itemsize, unpickle

#: What torch's files began with before they were zip archives, as the first of several pickles.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: How much larger an archive may be than its file. Weights hardly shrink when they are compressed.
_MAX_COMPRESSION = 20

_CHUNK = 2**23


def skips_crc() -> bool:
    """Whether ``PACA_MM_SKIP_CRC=1`` says that checksums are not compared."""
    return os.environ.get('PACA_MM_SKIP_CRC', '') not in ('', '0')


def read_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Read a ``.pth`` or ``.safetensors`` file, or the one at an http(s) URL.

    Args:
        path: File or URL; see :mod:`.download` for where a URL is kept.
        map_location: Where tensors go.

    Returns:
        What the file holds, tensors, plain Python values and mmengine's log buffers; any other
        object in it is an inert placeholder. A ``.safetensors`` file that we wrote is what a ``.pth``
        would be: ``meta`` and ``state_dict``.

    Raises:
        UserError: There is no such file, it is empty, torn, damaged, not a checkpoint, or it asks for
            code to be run; or the URL cannot be reached.
    """
    path = os.fspath(path)
    if not is_url(path):
        return _read_file(_local_file(path), path, map_location)
    file = downloaded(path)
    try:
        return _read_file(file, path, map_location)
    except UserError as e:
        raise UserError(
            f'{e}\n  it is read from {file}, where it is kept.\n'
            '  to fix it: remove that file, and it is downloaded again.'
        ) from e


def _read_file(file: Path, path: str, map_location: Any) -> Any:
    try:
        size = file.stat().st_size
        if size == 0:
            raise UserError(
                f'{path} is empty (0 bytes): the copy or download failed; fetch it again.'
            )
        if file.suffix == '.safetensors':
            return _read_safetensors(file, map_location)
        return _read_pickle(file, path, size, map_location)
    except OSError as e:
        raise UserError(f'{path} cannot be read ({e.strerror or e}).') from e


def _read_pickle(file: Path, path: str, size: int, map_location: Any) -> Any:
    with file.open('rb') as f:
        head = f.read(512)
        if is_text_instead(head):
            raise UserError(
                f'{path} is not a checkpoint but a text that stands for one (it starts with '
                f'{head[:24]!r}): download the file itself.'
            )
        if head.startswith(b'PK') and not zipfile.is_zipfile(f):
            raise UserError(
                f'{path} is torn: {size} bytes, and the end of the archive is missing. The copy or '
                'download stopped half-way, or the training was killed while saving; fetch it '
                'again, or take the checkpoint before it.'
            )
        read = _read_archive if head.startswith(b'PK') else _read_legacy
        try:
            f.seek(0)
            return read(f, size, _placement(map_location))
        except Refused as e:
            raise UserError(
                f'{path} is not loaded: reading it would call {e}, which is code and no weights. If '
                'you trust its author, ask for a file that holds a plain state dict.'
            ) from None
        except _Program:
            raise UserError(
                f'{path} is a TorchScript program, not weights: it is not loaded.'
            ) from None
        except Exception as e:
            if 'Bad CRC-32' in str(e):
                raise UserError(
                    f'{path} is damaged: it has its {size} bytes, but not those that were written '
                    f'({e}).\n  to fix it: fetch it again, or take the checkpoint before it. '
                    'PACA_MM_SKIP_CRC=1 in the environment reads it as it is, wrong numbers and all.'
                ) from e
            # Whatever else a damaged file trips over (BadZipFile, RuntimeError, ...) says the same.
            raise UserError(
                f'{path} cannot be read as a checkpoint ({size} bytes; {type(e).__name__}: {e}): it '
                'is torn or no PyTorch file. Fetch it again.'
            ) from e


class _Program(Exception):
    """A TorchScript archive."""


def _read_archive(f: Any, size: int, place: Callable[[Any, str], Any]) -> Any:
    """torch's format since 1.6: ``NAME/data.pkl``, and a file in ``NAME/data/`` for each storage."""
    with zipfile.ZipFile(f) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if skips_crc():
            for entry in entries.values():
                entry.CRC = None  # type: ignore[assignment]  # zipfile has nothing to compare with then
        if any(name.endswith('/constants.pkl') for name in entries):
            raise _Program
        _check_sizes(archive.infolist(), size)
        pickles = [name for name in entries if name.endswith('/data.pkl')]
        if len(pickles) != 1:
            raise Damaged('it has no data.pkl')
        root = pickles[0].removesuffix('data.pkl')
        order = f'{root}byteorder'
        if order in entries and _content(archive, entries[order]) != sys.byteorder.encode():
            raise Damaged('it was written by a machine of another byte order')

        def storage_of(dtype: torch.dtype, key: str, location: str, numel: int) -> Any:
            entry = entries[f'{root}data/{key}']
            if entry.file_size != numel * itemsize(dtype):
                raise Damaged(f'the storage {key} has {entry.file_size} bytes for {numel} numbers')
            with archive.open(entry) as part:
                return place(_filled(part, entry.file_size), location)

        content = _content(archive, entries[pickles[0]])
        return unpickle(io.BytesIO(content), len(content), storage_of)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, as many as it states: unpacking stops there."""
    with archive.open(entry) as part:
        return part.read(entry.file_size)


def _check_sizes(entries: Any, size: int) -> None:
    """An archive does not unfold to many times its file, be it by compression or by overlaps."""
    kinds = {entry.compress_type for entry in entries}
    if not kinds <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise Damaged('it is compressed in a way that torch does not use')
    stored = sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_STORED)
    packed = sum(e.file_size for e in entries if e.compress_type != zipfile.ZIP_STORED)
    if stored > size or packed > _MAX_COMPRESSION * size:
        raise Damaged(f'its {size} bytes would unfold to {stored + packed}')


def _read_legacy(f: Any, size: int, place: Callable[[Any, str], Any]) -> Any:
    """torch's format before 1.6: pickles one after the other, then the storages."""
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not content[:1] == b'\x80' or unpickle(content, 64) != _LEGACY_MAGIC:
            raise Damaged('it does not begin as a file of torch.save')
        unpickle(content, 64)  # the protocol
        unpickle(content, 1024)  # sizes of C types
        begin = content.tell()
        storages: dict[str, Any] = {}
        left = size

        def promised(dtype: torch.dtype, key: str, location: str, numel: int) -> Any:
            nonlocal left
            left -= numel * itemsize(dtype)
            if left < 0:
                raise Damaged('its storages are larger than the file')
            storages[key] = torch.UntypedStorage(numel * itemsize(dtype)), numel
            return storages[key][0]

        unpickle(content, size, promised)
        keys = unpickle(content, size)
        if any(not isinstance(key, str) for key in keys) or {*keys} != {*storages}:
            raise Damaged('storages are missing')
        for key in keys:
            storage, numel = storages[key]
            if int.from_bytes(content.read(8), sys.byteorder) != numel:
                raise Damaged(f'the storage {key} has another size than its tensors')
            _fill(content, storage)
        content.seek(begin)  # once more, now that what tensors lie in is there

        def storage_of(dtype: torch.dtype, key: str, location: str, numel: int) -> Any:
            return place(storages[key][0], location)

        return unpickle(content, size, storage_of)


def _filled(part: Any, nbytes: int) -> Any:
    storage = torch.UntypedStorage(nbytes)
    _fill(part, storage)
    return storage


def _fill(part: Any, storage: Any) -> None:
    """Read the bytes of a storage; an archive's are held against their checksum at its end."""
    nbytes = storage.nbytes()
    if not nbytes:
        return
    array: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    target = memoryview(array)
    at = 0
    while at < nbytes:
        chunk = part.read(min(_CHUNK, nbytes - at))
        if not chunk:
            raise Damaged('it ends within a tensor')
        target[at : at + len(chunk)] = chunk
        at += len(chunk)


def _placement(map_location: Any) -> Callable[[Any, str], Any]:
    """Where a storage goes: ``(storage, location in the file)`` -> the storage there."""

    def place(storage: Any, location: str) -> Any:
        if callable(map_location):
            return map_location(storage, location) or storage
        target = map_location
        if isinstance(map_location, dict):
            target = map_location.get(location, location)
        device = torch.device(location if target is None else target)
        if device.type == 'cpu' or not storage.nbytes():
            return storage
        flat = torch.empty(0, dtype=torch.uint8).set_(storage)
        return flat.to(device).untyped_storage()

    return place


def _read_safetensors(file: Path, map_location: Any) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f'{file} is read by the package safetensors, which is missing: pip install safetensors'
        ) from None
    try:
        state = load_file(file, device=str(map_location or 'cpu'))
        with safe_open(file, 'pt') as opened:
            return from_strings(opened.metadata(), state)
    except (SafetensorError, json.JSONDecodeError, OSError) as e:
        raise UserError(f'{file} is torn or no safetensors file ({e}): fetch it again.') from e


#: How configs of the hosts name weights that their packages know the addresses of.
_OF_HOSTS = ('open-mmlab', 'openmmlab', 'torchvision', 'mmcls', 'jhu', 'modelzoo')


def _local_file(path: str) -> Path:
    scheme = urlparse(path).scheme
    if scheme in _OF_HOSTS:
        raise UserError(
            f'{path}: {scheme}:// names weights of a model of the hosts ({path.partition("://")[2]}), '
            'which fit no other model.\n'
            '  to fix it: leave them out (init_cfg=None, or pretrained=None where a segmentor has it: '
            '--cfg-options model.pretrained=None), or name a file or an http(s) URL.'
        )
    if len(scheme) > 1:  # one letter is a Windows drive
        raise UserError(
            f'{path}: only files and http(s) URLs are read; copy it to a file and name that.'
        )
    file = Path(path).expanduser()
    if file.is_dir():
        found = sorted(p.name for p in file.iterdir() if p.suffix in ('.pth', '.safetensors'))
        raise UserError(f'{path} is a folder; name a checkpoint in it: {found or "(it has none)"}.')
    if not file.exists():
        folder = file.absolute().parent
        names = os.listdir(folder) if folder.is_dir() else []
        missing = '' if folder.is_dir() else f' (the folder {folder} does not exist either)'
        raise UserError(
            f'there is no checkpoint {file.absolute()}{missing}'
            f'{did_you_mean(file.name, names, most=3)}'
        )
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe or a device may never end
        raise UserError(f'{path} is a pipe, a socket or a device: copy it to a file and name that.')
    return file


def read_state_dict(path: str | os.PathLike) -> 'OrderedDict[str, Tensor]':
    """The tensors of a checkpoint file by key; raises as the two functions that it joins."""
    return state_dict_of(read_checkpoint(path), path)


#: What files keep weights under besides; averaged ones (EMA) last, unless a family prefers them.
WRAPPERS = ('state_dict', 'model', 'module', 'state_dict_ema', 'model_ema', 'ema_state_dict')


def unwrap(
    content: Any, source: str | os.PathLike, prefer: Sequence[str] = ()
) -> tuple['OrderedDict[str, Tensor]', str]:
    """The tensors of a checkpoint by key, and under what name the file has them.

    Understands a bare state dict and the usual wrappers (:data:`WRAPPERS`), and drops the ``module.``
    of a distributed or averaged model. The versions of the modules, torch's ``_metadata``, come along.

    Args:
        content: What :func:`read_checkpoint` returned.
        source: Where it came from, for the message.
        prefer: Wrappers that are taken before the others where a file has several.

    Returns:
        The state dict and the name of its wrapper, ``''`` for none.

    Raises:
        UserError: There is no state dict in it.
    """
    state, taken, tensors = content, '', _tensors(content)
    for wrapper in (*prefer, *WRAPPERS):
        if isinstance(content, dict) and (found := _tensors(content.get(wrapper))):
            state, taken, tensors = content[wrapper], wrapper, found
            break
    if not tensors:
        names = isinstance(content, dict)
        held = sorted(map(str, content))[:8] if names else type(content).__name__
        raise UserError(f'{source} holds no state dict (no tensors by name); it holds: {held}.')
    versions = {
        key: value
        for key, value in (getattr(state, '_metadata', None) or {}).items()
        if isinstance(key, str) and isinstance(value, dict)
    }
    if taken == 'ema_state_dict':
        tensors.pop('steps', None)  # how often mmengine has averaged
    if all(key.startswith('module.') for key in tensors):
        tensors = OrderedDict((key[len('module.') :], value) for key, value in tensors.items())
        versions = {key.removeprefix('module').removeprefix('.'): v for key, v in versions.items()}
    if versions:
        vars(tensors)['_metadata'] = OrderedDict(versions)
    return tensors, taken


def _tensors(state: Any) -> 'OrderedDict[str, Tensor]':
    """What has a name and is a tensor."""
    items = state.items() if isinstance(state, dict) else ()
    return OrderedDict(
        (key, value) for key, value in items if isinstance(key, str) and isinstance(value, Tensor)
    )


def state_dict_of(
    content: Any, source: str | os.PathLike, prefer: Sequence[str] = ()
) -> 'OrderedDict[str, Tensor]':
    """The tensors of a checkpoint by key, out of whatever wraps them; see :func:`unwrap`."""
    return unwrap(content, source, prefer)[0]
