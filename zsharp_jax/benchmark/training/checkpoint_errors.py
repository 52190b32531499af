"""What Orbax says of a checkpoint that cannot be read or written, brought down to one line."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator

from zsharp_jax.benchmark.errors import OutputError

# What is looked for among all that it says.
_REASONS = [
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
]


@contextlib.contextmanager
def told_in_a_line(folder: pathlib.Path) -> Iterator[None]:
    """Within it, whatever is raised says in a line that nothing can be written to `folder`.

    Raises:
        OutputError: If anything is.
    """
    try:
        yield
    except Exception as error:  # what Orbax raises differs with what cannot be written
        reasons = [reason for reason in _REASONS if reason in str(error)]
        reason = reasons[0] if reasons else f"{type(error).__name__}: {error}"
        raise OutputError(f"cannot write a checkpoint to {folder}: {reason[:300]}") from error


@functools.cache  # once in a process
def hush_echoes() -> None:
    """From now on a file that cannot be read or written is told of once, and by us.

    Orbax raises at the first, and what it has under way besides complains where nobody catches it,
    when its threads end or it is collected: often long after the run has ended.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        frames = traceback.extract_tb(unraisable.exc_traceback)
        packages = {part for frame in frames for part in pathlib.Path(frame.filename).parts}
        if not packages & {"asyncio", "orbax"}:
            before(unraisable)

    sys.unraisablehook = hook
