"""The finished runs of a folder in one file, `runs.jsonl`: a line each, as in a file of its own.

A run is written to a file of its own, so that several processes can train into one folder. When a
study is over its files are packed. A run that is in both is the one of its own file.
"""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator

from zsharp_jax.benchmark.runs.fields import DamagedError, Record
from zsharp_jax.benchmark.runs.json_files import parsed, read_json
from zsharp_jax.benchmark.runs.lines import alone_in, lines_of, name_of, put_records

PACKED = "runs.jsonl"


def pack(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Moves finished runs from their own files into `runs.jsonl`, which is there whole at any time.

    Args:
        folder: Where they lie.
        names: Which runs; those that have not finished keep their files.
    """
    with alone_in(folder):
        own = {name: folder / f"{name}.json" for name in names}
        records = {name: read_json(path) for name, path in own.items() if path.exists()}
        finished = {n: r for n, r in records.items() if r.get("status") == "finished"}
        if not finished:
            return
        put_records(folder / PACKED, finished)
        for name in finished:
            own[name].unlink()


def packed_records(folder: pathlib.Path) -> Iterator[tuple[str, Record]]:
    """The name and the record of each line that is whole."""
    for line in lines_of(folder / PACKED):
        with contextlib.suppress(DamagedError):
            record = parsed(line)
            yield name_of(record), record


def packed_record(folder: pathlib.Path, name: str) -> Record | None:
    """The record of one run, of its last line; None where there is none."""
    for line in reversed(lines_of(folder / PACKED)):
        if name.encode() in line:  # before it is read, which takes long
            with contextlib.suppress(DamagedError):
                record = parsed(line)
                if name_of(record) == name:
                    return record
    return None
