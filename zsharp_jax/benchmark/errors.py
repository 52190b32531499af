"""What is said to a user whose request cannot be met."""

import difflib
from collections.abc import Iterable


class RequestError(Exception):
    """A request that cannot be met, said in one line; the command exits with 2."""


class OutputError(Exception):
    """A result that cannot be written, said in one line; the command exits with 1."""


def to_install(extra: str) -> str:
    """What installs an extra."""
    return f'pip install -e ".[{extra}]" in a clone'


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """Returns `name` if it is one of `names`, else raises with all of them and the nearest."""
    names = sorted(names)
    if name in names:
        return name
    alike = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean {alike[0]}?" if alike else ""
    raise RequestError(f"unknown {kind} {name!r}, known: {', '.join(names)}{meant}")
