"""What a full disk is to a writer."""

import resource
from contextlib import contextmanager


@contextmanager
def files_of(most):
    """No file may become larger than so many bytes: what a full disk is to a writer, for anybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
