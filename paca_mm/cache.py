"""Small results that are kept between runs, in the user's cache folder."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import replacing


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/paca_mm``, or ``~/.cache/paca_mm``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache').expanduser() / 'paca_mm'


def kept_of_file(path: str | os.PathLike, what: str, make: Callable[[], Any]) -> Any:
    """What was made of a file before, or is made now and kept for the next time.

    Args:
        path: The file. Its size and time of change are its stamp: another stamp makes it again.
        what: What is made of it, and the version of that.
        make: Makes it: data that JSON can hold.

    Returns:
        What ``make`` returns. A cache that cannot be read or written costs time, and nothing else.
    """
    path = os.path.realpath(path)
    state = os.stat(path)
    stamp = [path, what, state.st_size, state.st_mtime_ns]
    name = hashlib.sha256(json.dumps(stamp[:2]).encode()).hexdigest()[:24]
    file = cache_dir() / 'files' / f'{name}.json'
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_bytes())
        if kept['stamp'] == stamp:
            return kept['made']
    made = make()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_text(json.dumps({'stamp': stamp, 'made': made}))
    return made
