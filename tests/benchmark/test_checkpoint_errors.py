"""What Orbax's threads complain of after a run has ended is hushed, and nothing else is."""

import asyncio
import sys

from zsharp_jax.benchmark.training.checkpoint_errors import hush_echoes


class Complaint:
    """Raises where nobody catches it."""

    def __init__(self, call):
        self.call = call

    def __del__(self):
        self.call()


def test_late_echoes_are_hushed_and_nothing_else(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    loop = asyncio.new_event_loop()
    loop.close()

    def call_what_is_closed():
        loop.call_soon_threadsafe(print)

    Complaint(call_what_is_closed)
    assert told == [RuntimeError]
    hush_echoes.__wrapped__()
    Complaint(call_what_is_closed)
    assert told == [RuntimeError]
    Complaint(lambda: {}["missing"])
    assert told == [RuntimeError, KeyError]
