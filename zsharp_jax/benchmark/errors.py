"""What is said to a user whose request cannot be met."""

import difflib
from collections.abc import Iterable


class RequestError(Exception):
    """A request that cannot be met, said in one line; the command exits with 2."""


class OutputError(Exception):
    """A result that cannot be written, said in one line; the command exits with 1."""


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """Returns `name` if it is one of `names`, else raises with all of them, the nearest first."""
    names = list(names)
    if name not in names:

        def distance(candidate: str) -> float:
            return -difflib.SequenceMatcher(None, name, candidate).ratio()

        raise RequestError(
            f"unknown {kind} {name!r}, known: {', '.join(sorted(names, key=distance))}"
        )
    return name
