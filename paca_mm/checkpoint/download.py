"""Checkpoints at an http(s) URL: fetched once, checked, and kept in torch hub's folder.

A file is kept under its own name where that ends in a hash of its content (``-1a2b3c4d.pth``, as
OpenMMLab and torch hub name theirs), which is compared; any other under its name and a hash of the whole
URL, since ``epoch_12.pth`` of two servers are two files. It takes its name only when it is complete.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse
from urllib.request import Request, urlopen
from uuid import uuid4

import torch
from filelock import FileLock

from paca_mm.cache import kept_of_file
from paca_mm.errors import UserError
from paca_mm.files import move_into_place

_CHUNK = 2**20

#: Seconds without a byte after which a server is given up.
_SILENCE = 60


def is_url(path: str) -> bool:
    """Whether a path is fetched from a server."""
    return urlparse(path).scheme in ('http', 'https')


def is_text_instead(head: bytes) -> bool:
    """Whether a file that begins so is a web page or a pointer of Git LFS, and no weights."""
    texts = (b'<!doctype', b'<html', b'<?xml', b'version https://git-lfs')
    return head.lstrip().lower().startswith(texts)


def downloaded(url: str) -> Path:
    """The file at a URL, from the folder where it is kept, or fetched now.

    A second process that wants it waits for the first one. What a try leaves behind is removed.

    Raises:
        UserError: It cannot be fetched or kept, comes incomplete, is a web page, or is not what the
            hash in its name says.
    """
    file = Path(torch.hub.get_dir()) / 'checkpoints' / kept_name(url)
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with _alone(file.parent) as alone:
                if alone:
                    for stale in file.parent.glob(f'.{glob.escape(file.name)}.*.part'):
                        stale.unlink()  # of a process that was killed
                if not file.is_file():
                    _fetch(url, file)
        promised = hash_in(file.name)
        if promised and not kept_of_file(file, 'sha256', lambda: _sha256(file)).startswith(
            promised
        ):
            raise UserError(
                f'{file} is not what its name says: the sha256 of its content does not begin with '
                f'{promised}.\n  to fix it: remove that file, and {url} is downloaded again.'
            )
    except OSError as e:
        raise UserError(
            f'{url} cannot be kept in {file.parent} ({e.strerror or e}).\n'
            '  to fix it: make room there, or name another folder: TORCH_HOME=DIR.'
        ) from e
    return file


def kept_name(url: str) -> str:
    """What the file at a URL is called where it is kept.

    >>> kept_name('https://a.org/x/resnet-1a2b3c4d.pth')
    'resnet-1a2b3c4d.pth'
    >>> kept_name('https://a.org/x/epoch_12.pth?download=1')
    'epoch_12.7f066445e168.pth'

    Raises:
        UserError: The URL names no file.
    """
    whole = urldefrag(url).url
    name = os.path.basename(unquote(urlparse(whole).path))
    if not name:
        raise UserError(f'{url} names no file: a URL of a checkpoint ends in its name.')
    if hash_in(name):
        return name
    stem, suffix = os.path.splitext(re.sub(r'[^\w.-]', '_', name))
    return f'{stem[:100]}.{hashlib.sha256(whole.encode()).hexdigest()[:12]}{suffix[:20]}'


def hash_in(name: str) -> str | None:
    """The first digits of a file's sha256, where its name ends in them; a date is none."""
    found = re.fullmatch(r'[\w.-]{1,180}-([0-9a-f]{8,64})\.\w{1,20}', name)
    if not found or re.fullmatch(r'20\d\d[01]\d[0-3]\d', found[1]):
        return None
    return found[1]


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Let one process in at a time; whether it is so: some network disks have no locks."""
    lock = FileLock(folder / '.paca_mm.lock')  # freed by the system when a process dies
    with suppress(NotImplementedError):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _fetch(url: str, file: Path) -> None:
    """Fetch a file, look at it, and give it its name."""
    part = file.with_name(f'.{file.name}.{uuid4().hex}.part')
    content = hashlib.sha256()
    try:
        with part.open('xb') as out:
            for chunk in _chunks(url, file):
                if not out.tell() and is_text_instead(chunk):
                    raise UserError(
                        f'{url} is no checkpoint but a web page or a text that stands for one (it '
                        f'starts with {chunk[:24]!r}): name the address of the file itself.'
                    )
                out.write(chunk)
                content.update(chunk)
        if not content.hexdigest().startswith(hash_in(file.name) or ''):
            raise UserError(
                f'{url} is not what its name says: the sha256 of what came begins with '
                f'{content.hexdigest()[:8]}, not with {hash_in(file.name)}.\n'
                '  to fix it: try again, or ask who publishes it. A file that you trust nevertheless '
                'is read by its path: download it elsewhere and name that.'
            )
        move_into_place(part, file)
    finally:
        part.unlink(missing_ok=True)


def _chunks(url: str, file: Path) -> Iterator[bytes]:
    """What a server sends, to the last byte."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import wrap_file

    got = 0
    try:
        request = Request(url, headers={'User-Agent': 'paca_mm'})
        with urlopen(request, timeout=_SILENCE) as answer:
            length = answer.headers.get('Content-Length')
            stream: Any = nullcontext(answer)
            if length is not None:
                name, console = os.path.basename(urlparse(url).path), Console(stderr=True)
                stream = wrap_file(answer, int(length), description=escape(name), console=console)
            with stream as part:
                while chunk := part.read(_CHUNK):
                    got += len(chunk)
                    yield chunk
        fault = f'{got} of {length} bytes came' if got != int(length or got) or not got else None
    except (OSError, HTTPException, ValueError) as e:  # URLError and every socket error: OSErrors
        fault = str(e) or type(e).__name__
    if fault:
        raise UserError(
            f'{url} cannot be downloaded ({fault}). Check the network and the address, or download it '
            f'elsewhere and put it at {file}.'
        )


def _sha256(file: Path) -> str:
    content = hashlib.sha256()
    with file.open('rb') as part:
        while chunk := part.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
