"""Ctrl-C, which Python alone can lose.

What a signal raises inside a callback of XLA is printed and dropped, and the program runs on; so
the signal is remembered too.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

_seen = threading.Event()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Within it, `check` knows of a Ctrl-C that was lost."""

    def remember(signum, frame):
        del signum, frame
        _seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _seen.clear()


def check() -> None:
    """Raises KeyboardInterrupt if there was a Ctrl-C."""
    if _seen.is_set():
        raise KeyboardInterrupt
