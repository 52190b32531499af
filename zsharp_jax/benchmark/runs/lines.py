"""Files with a line of JSON for each run, such as `runs.jsonl`; whole at any time."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from zsharp_jax.benchmark.runs.fields import DamagedError, Record, brief, word
from zsharp_jax.benchmark.runs.files import write_whole
from zsharp_jax.benchmark.runs.json_files import content_of, parsed

T = TypeVar("T")


def lines_of(path: pathlib.Path) -> list[bytes]:
    """The lines of a file that hold anything; none where there is no file."""
    return [line for line in path.read_bytes().splitlines() if line] if path.is_file() else []


def read_records(
    path: pathlib.Path, most: int, problems: list[str], read: Callable[[str, Record], T]
) -> dict[str, T]:
    """What the lines of a file tell, by the names of the runs.

    Args:
        path: The file.
        most: How many bytes it may have.
        problems: Where a sentence is added for each line that is damaged, or followed by another
            one of the same run.
        read: From the name and the record of a run to what it tells, or a `DamagedError`.
    """
    found, places = {}, {}
    try:
        lines = content_of(path, most).splitlines()
    except (OSError, DamagedError) as error:
        problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        return {}
    for place, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = parsed(line)
            name = name_of(record)
            found[name] = read(name, record)
        except DamagedError as error:
            problems.append(f"{path}, line {place}: {error}")
            continue
        if name in places:
            problems.append(f"{path}, line {places[name]}: line {place} is of the same run")
        places[name] = place
    return found


def put_records(path: pathlib.Path, records: Mapping[str, Record]) -> None:
    """Adds lines to a file, or replaces those of the same runs; a damaged line stays.

    No other process may write to the file meanwhile, see `alone_in`.

    Args:
        path: The file.
        records: What its lines hold, by the names of the runs.
    """
    added = {name: json.dumps(record, allow_nan=False).encode() for name, record in records.items()}
    _write_lines(path, _lines_by_name(path) | added)


def drop_records(path: pathlib.Path, names: Collection[str]) -> None:
    """Takes the lines of runs out of a file, if it is there and has any of them.

    No other process may write to the file meanwhile, see `alone_in`.
    """
    lines = _lines_by_name(path)
    kept = {name: line for name, line in lines.items() if name not in names}
    if len(kept) < len(lines):
        _write_lines(path, kept)


def _lines_by_name(path: pathlib.Path) -> dict[str, bytes]:
    """The lines of a file by the names of their runs; damaged ones are not ours to throw away."""
    found = {}
    for number, line in enumerate(lines_of(path), 1):
        try:
            found[name_of(parsed(line))] = line
        except DamagedError:
            found[f"~{number}"] = line
    return found


def _write_lines(path: pathlib.Path, lines: Mapping[str, bytes]) -> None:
    write_whole(path, b"".join(lines[name] + b"\n" for name in sorted(lines)))


def name_of(record: object) -> str:
    """The name of a run.

    Raises:
        DamagedError: If a line has none.
    """
    if not isinstance(record, dict):
        raise DamagedError(f"not a run: {brief(record)}")
    return word(record, "name")


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Within it no other process does so there, as far as the system can tell them apart."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
