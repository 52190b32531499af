"""Ctrl-C, which Python alone can lose, and SIGTERM, which says that the machine is taken away.

What a signal raises inside a callback of XLA is printed and dropped, and the program runs on; so
Ctrl-C is remembered too. SIGTERM raises nothing where it comes in, as it would tear a step apart:
the run looks for it between two steps.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_seen = threading.Event()
_terminated = threading.Event()


class Terminated(Exception):
    """The process was asked to end with SIGTERM.

    Attributes:
        outcome: What the run that was under way had found, if there was one.
    """

    def __init__(self, message: str = "", outcome: Any = None) -> None:
        super().__init__(message)
        self.outcome = outcome


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Within it, `check` knows of a Ctrl-C that was lost."""

    def remember(signum, frame):
        del signum, frame
        _seen.set()
        raise KeyboardInterrupt

    with _handled(signal.SIGINT, remember, _seen):
        yield


def check() -> None:
    """Raises KeyboardInterrupt if there was a Ctrl-C."""
    if _seen.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def termination_noted() -> Iterator[None]:
    """Within it, SIGTERM ends nothing by itself, and `check_termination` knows of it."""

    def note(signum, frame):
        del signum, frame
        _terminated.set()

    with _handled(signal.SIGTERM, note, _terminated):
        yield


def is_terminated() -> bool:
    """Whether there was a SIGTERM."""
    return _terminated.is_set()


def check_termination() -> None:
    """Raises Terminated if there was a SIGTERM."""
    if _terminated.is_set():
        raise Terminated


@contextlib.contextmanager
def _handled(signum: signal.Signals, handler, seen: threading.Event) -> Iterator[None]:
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)
        seen.clear()
