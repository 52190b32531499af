"""Disks that fill up."""

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(size):
    """Makes writing behind that many bytes of any file fail, much as a full disk does."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
