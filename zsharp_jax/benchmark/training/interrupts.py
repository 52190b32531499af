"""Ctrl-C, which Python alone can lose, and SIGTERM, which says that the machine is taken away.

What a signal raises inside a callback of XLA is printed and dropped, and the program runs on; so
Ctrl-C is remembered too. SIGTERM raises nothing where it comes in, as it would tear a step apart:
the run looks for it between two steps. While steps are taken the first Ctrl-C is treated alike.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_seen = threading.Event()
_terminated = threading.Event()
_stopped_by_hand = threading.Event()
_within_steps = threading.Event()

_ends_at = [math.inf]  # on the clock of `time.monotonic`

_NOTICE = b"\nzsharp-bench: stopping after this step; Ctrl-C again stops at once\n"


class Terminated(Exception):
    """The process was asked to end with SIGTERM, or with Ctrl-C between two steps, or its time is
    over.

    Attributes:
        outcome: What the run that was under way had found, if there was one.
        records: Of the runs that had ended.
        by_hand: Whether it was Ctrl-C.
    """

    def __init__(self, message: str = "", outcome: Any = None, records: Any = ()) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.records = records
        self.by_hand = _stopped_by_hand.is_set()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Within it, `check` knows of a Ctrl-C that was lost."""

    def remember(signum, frame):
        del signum, frame
        _seen.set()
        raise KeyboardInterrupt

    with _handled(signal.SIGINT, remember, _seen):
        yield


COMPILES = "zsharp-bench compiles"  # what threads are named in which XLA compiles


def compiles() -> bool:
    """Whether XLA compiles in a thread, which Python would wait for at its end."""
    return any(thread.name.startswith(COMPILES) for thread in threading.enumerate())


def check() -> None:
    """Raises KeyboardInterrupt if there was a Ctrl-C that asked to end at once."""
    if _seen.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def termination_noted() -> Iterator[None]:
    """Within it, SIGTERM ends nothing by itself, and `check_termination` knows of it.

    The same is true of the first Ctrl-C within `steps_under_way`.
    """

    def note(signum, frame):
        del signum, frame
        _terminated.set()

    def note_by_hand(signum, frame):
        if not _within_steps.is_set() or _stopped_by_hand.is_set():
            _seen.set()
            raise KeyboardInterrupt
        del signum, frame
        _stopped_by_hand.set()
        with contextlib.suppress(OSError):  # who read it, such as `tee`, may be gone as well
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NOTICE)

    with (
        _handled(signal.SIGTERM, note, _terminated),
        _handled(signal.SIGINT, note_by_hand, _stopped_by_hand),
    ):
        try:
            yield
        finally:
            end_at(math.inf)


def end_at(moment: float) -> None:
    """Asks the run to end after its step at a moment of `time.monotonic`, as SIGTERM would."""
    _ends_at[0] = moment


@contextlib.contextmanager
def steps_under_way() -> Iterator[None]:
    """Within it a Ctrl-C waits for the end of a step, so that a checkpoint can be kept."""
    _within_steps.set()
    try:
        yield
    finally:
        _within_steps.clear()


def is_terminated() -> bool:
    """Whether the run is to end after its step."""
    return _terminated.is_set() or _stopped_by_hand.is_set() or time.monotonic() >= _ends_at[0]


def check_termination() -> None:
    """Raises Terminated if the run is to end after its step."""
    if is_terminated():
        raise Terminated


@contextlib.contextmanager
def _handled(signum: signal.Signals, handler, seen: threading.Event) -> Iterator[None]:
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)
        seen.clear()
