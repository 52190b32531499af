"""Reads JSON that may come from anywhere."""

import json
import pathlib
import stat
from typing import Any

from zsharp_jax.benchmark.runs.fields import DamagedError

_MOST_BYTES = 2**24  # some hundred times what 200 epochs take


def read_json(path: pathlib.Path) -> Any:
    """What a file holds, whatever it is.

    Raises:
        DamagedError: If it is no JSON, or too large.
    """
    try:
        return parsed(content_of(path))
    except OSError as error:
        raise DamagedError(error.strerror or "cannot be read") from None


def parsed(content: bytes) -> Any:
    """What JSON holds, whatever it is.

    Raises:
        DamagedError: If it is none.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedError(f"not JSON: {reason}") from None


def content_of(path: pathlib.Path, most: int = _MOST_BYTES) -> bytes:
    """The content of a file.

    Raises:
        DamagedError: If it is no file, or larger than `most` bytes.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us waiting
        raise DamagedError("not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedError(f"larger than the {most} bytes that a run file may have")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
