"""The command as the tests call it, and what it leaves."""

import json

import pytest

from zsharp_jax.benchmark.cli import main
from zsharp_jax.benchmark.runs.packed import packed_records


def exit_code(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def records_in(folder):
    """The records of all runs in a folder, in the order of their names."""
    records = dict(packed_records(folder))
    records |= {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return [records[name] for name in sorted(records)]
