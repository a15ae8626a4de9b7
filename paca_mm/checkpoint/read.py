"""Reading checkpoint files without running what is in them.

A ``.pth`` file is a pickle, and a pickle may name any function to call while it is read. The reader
here knows the few names that tensors need, keeps bookkeeping of other libraries as inert
placeholders, and refuses the rest.
"""

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from torch import Tensor

from paca_mm.errors import UserError

#: Called for real: they build tensors and plain containers, and nothing else.
_TENSOR_NAMES = {
    ('collections', 'OrderedDict'),
    ('collections', 'defaultdict'),
    ('torch', 'Size'),
    ('torch', 'device'),
    ('torch._utils', '_rebuild_tensor'),
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch._utils', '_rebuild_parameter'),
    ('torch.nn.parameter', 'Parameter'),
    ('torch.storage', 'TypedStorage'),
    ('torch.storage', 'UntypedStorage'),
}
_BUILTINS = {'set', 'frozenset', 'list', 'dict', 'tuple', 'int', 'float', 'complex', 'bytearray'}
#: What mmengine needs to go on with a run: its log buffers and the NumPy numbers inside them.
_RESUME_NAMES = {
    ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', 'scalar'),
    ('_codecs', 'encode'),
}
#: Libraries whose objects lie about in published checkpoints; kept as placeholders, never called.
_INERT_ROOTS = {
    'addict', 'argparse', 'builtins', 'datetime', 'easydict', 'fvcore', 'mmcv', 'mmcls', 'mmdet',
    'mmengine', 'mmpretrain', 'mmseg', 'numpy', 'omegaconf', 'pathlib', 'timm', 'torch', 'yacs',
}  # fmt: skip
_CALLABLE_BUILTINS = {
    'eval',
    'exec',
    'compile',
    'open',
    '__import__',
    'getattr',
    'setattr',
    'input',
}


#: torch writes pickles of protocol 2, which has the names of Python 2.
_PYTHON_2_NAMES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}


class _Inert:
    """Stands for an object that is not needed: takes whatever the pickle gives and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class _Refused(Exception):
    """The pickle names something that is neither a tensor nor harmless."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = _PYTHON_2_NAMES.get(module, module)
        if (module, name) == ('builtins', 'getattr'):
            return _statistics_method
        if (
            (module, name) in _TENSOR_NAMES
            or (module, name) in _RESUME_NAMES
            or (module == 'builtins' and name in _BUILTINS)
            or (module == 'torch' and (name.endswith('Storage') or _is_dtype(name)))
        ):
            return super().find_class(module, name)
        if module.partition('.')[0] in _INERT_ROOTS and name not in _CALLABLE_BUILTINS:
            return _Inert
        raise _Refused(f'{module}.{name}')


def _statistics_method(owner: Any, name: str) -> Any:
    """The one use of ``getattr`` that is allowed: mmengine's log buffers name their own methods."""
    if getattr(owner, '__qualname__', '') == 'HistoryBuffer' and name in {
        'min',
        'max',
        'current',
        'mean',
    }:
        return getattr(owner, name)
    raise _Refused('builtins.getattr')


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


def _pickle_module() -> ModuleType:
    """What ``torch.load`` takes in place of :mod:`pickle`."""
    module = ModuleType('paca_mm_safe_pickle')
    module.__dict__.update(
        Unpickler=_Unpickler, load=lambda f, **kw: _Unpickler(f, **kw).load(), dumps=pickle.dumps
    )
    return module


def read_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Read a ``.pth`` or ``.safetensors`` file, or the one at an http(s) URL.

    Args:
        path: File or URL. A URL is kept in torch hub's cache folder.
        map_location: Where tensors go.

    Returns:
        What the file holds, tensors, plain Python values and mmengine's log buffers; any other
        object in it is an inert placeholder.

    Raises:
        UserError: There is no such file, it is empty, torn, not a checkpoint, or it asks for code to
            be run; or the URL cannot be reached.
    """
    path = os.fspath(path)
    file = _local_file(path)
    size = file.stat().st_size
    if size == 0:
        raise UserError(f'{path} is empty (0 bytes): the copy or download failed; fetch it again.')
    if file.suffix == '.safetensors':
        return _read_safetensors(file, map_location)
    with file.open('rb') as f:
        return _read_pickle(f, path, size, map_location)


def _read_pickle(f: BinaryIO, path: str, size: int, map_location: Any) -> Any:
    head = f.read(512)
    f.seek(0)
    text = head.lstrip().lower()
    if text.startswith((b'<!doctype', b'<html', b'version https://git-lfs')):
        raise UserError(
            f'{path} is not a checkpoint but a text that stands for one (it starts with '
            f'{head[:24]!r}): download the file itself.'
        )
    if head.startswith(b'PK'):
        if not zipfile.is_zipfile(f):
            raise UserError(
                f'{path} is torn: {size} bytes, and the end of the archive is missing. The copy or '
                'download stopped half-way, or the training was killed while saving; fetch it '
                'again, or take the checkpoint before it.'
            )
        f.seek(0)
        with zipfile.ZipFile(f) as archive:
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise UserError(f'{path} is a TorchScript program, not weights: it is not loaded.')
        f.seek(0)
    try:
        return torch.load(
            f, map_location=map_location, pickle_module=_pickle_module(), weights_only=False
        )
    except _Refused as e:
        raise UserError(
            f'{path} is not loaded: reading it would call {e}, which is code and no weights. If you '
            'trust its author, ask for a file that holds a plain state dict.'
        ) from None
    except Exception as e:
        # Whatever a damaged pickle trips over (EOFError, KeyError, RuntimeError, ...) says the same.
        raise UserError(
            f'{path} cannot be read as a checkpoint ({size} bytes; {type(e).__name__}: {e}): it is '
            'torn or no PyTorch file. Fetch it again.'
        ) from e


def _read_safetensors(file: Path, map_location: Any) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f'{file} is read by the package safetensors, which is missing: pip install safetensors'
        ) from None
    try:
        return load_file(file, device=str(map_location or 'cpu'))
    except (SafetensorError, json.JSONDecodeError, OSError) as e:
        raise UserError(f'{file} is torn or no safetensors file ({e}): fetch it again.') from e


def _local_file(path: str) -> Path:
    scheme = urlparse(path).scheme
    if scheme in ('http', 'https'):
        return _download(path)
    if len(scheme) > 1:  # one letter is a Windows drive
        raise UserError(
            f'{path}: only files and http(s) URLs are read; copy it to a file and name that.'
        )
    file = Path(path).expanduser()
    if file.is_dir():
        found = sorted(p.name for p in file.iterdir() if p.suffix in ('.pth', '.safetensors'))
        raise UserError(f'{path} is a folder; name a checkpoint in it: {found or "(it has none)"}.')
    if not file.is_file():
        folder = file.absolute().parent
        near = get_close_matches(file.name, os.listdir(folder) if folder.is_dir() else [], n=3)
        hint = f' Did you mean {", ".join(near)}?' if near else ''
        missing = '' if folder.is_dir() else f' (the folder {folder} does not exist either)'
        raise UserError(f'there is no checkpoint {file.absolute()}{missing}.{hint}')
    return file


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    file = folder / os.path.basename(urlparse(url).path)
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as e:  # URLError and every socket error are OSErrors
            raise UserError(
                f'{url} cannot be downloaded ({e}). Check the network and the address, or download '
                f'it elsewhere and put it at {file}.'
            ) from e
    return file


def read_state_dict(path: str | os.PathLike) -> 'OrderedDict[str, Tensor]':
    """The tensors of a checkpoint file by key; raises as the two functions that it joins."""
    return state_dict_of(read_checkpoint(path), path)


def state_dict_of(content: Any, source: str | os.PathLike) -> 'OrderedDict[str, Tensor]':
    """The tensors of a checkpoint by key, out of whatever wraps them.

    Understands a bare state dict and the usual wrappers (``state_dict``, ``model``, ``module``), and
    drops the ``module.`` of a distributed run.

    Raises:
        UserError: There is no state dict in it.
    """
    state = content
    for wrapper in ('state_dict', 'model', 'module'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            state = content[wrapper]
            break
    tensors = OrderedDict(
        (key, value)
        for key, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(key, str) and isinstance(value, Tensor)
    )
    if not tensors:
        found = (
            sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        )
        raise UserError(f'{source} holds no state dict (no tensors by name); it holds: {found}.')
    if all(key.startswith('module.') for key in tensors):
        tensors = OrderedDict((key[len('module.') :], value) for key, value in tensors.items())
    return tensors
