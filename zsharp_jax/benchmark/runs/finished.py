"""Takes a run that has finished from its file, so that it need not be trained again."""

import pathlib

from zsharp_jax.benchmark.runs.fields import DamagedError, Record, brief, dictionary, number
from zsharp_jax.benchmark.runs.json_files import read_json
from zsharp_jax.benchmark.runs.outcome import TESTED, curve_names
from zsharp_jax.benchmark.runs.packed import packed_record
from zsharp_jax.benchmark.runs.reading import run_of
from zsharp_jax.benchmark.runs.settings import Settings


def finished_record(folder: pathlib.Path, settings: Settings, data_sha256: str) -> Record | None:
    """What the run file of a finished run holds, fit for all tables and pictures.

    Args:
        folder: Where run files lie.
        settings: Of the run.
        data_sha256: The digest of its data.

    Returns:
        The record; None where there is none, or that of a run that failed or was cut short.

    Raises:
        DamagedError: If there is a file, and it is damaged or of another run.
    """
    name = settings.run_name(data_sha256)
    path = folder / f"{name}.json"
    record = _record_in(folder, name)
    if record is None:
        return None
    run = run_of(path, record)
    wanted = {"name": name, "settings": settings.as_dict(), "data_sha256": data_sha256}
    if any(record.get(field) != value for field, value in wanted.items()):
        raise DamagedError("it is of another run")
    if not run.is_whole:
        return None
    for figure in _figures(run.judged):
        number(dictionary(record, "final").get(figure), f"final.{figure}")
    device, versions = dictionary(record, "device"), dictionary(record, "versions")
    told = [device.get(name, []) for name in ("kind", "platform", "cpu_cores")]
    for value in (*told, *versions.values()):
        if not isinstance(value, str | int | None):
            raise DamagedError(f"a device or a version must be a short text, got {brief(value)}")
    words = record.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DamagedError(f"`command` must be a list of words, got {brief(words)}")
    return record


def _record_in(folder: pathlib.Path, name: str) -> Record | None:
    """What a run's own file holds, or its line in `runs.jsonl`."""
    path = folder / f"{name}.json"
    try:
        return read_json(path) if path.exists() else packed_record(folder, name)
    except DamagedError:
        if path.exists():
            raise
        return packed_record(folder, name)  # another process has packed it since


def _figures(judged: str) -> set[str]:
    """The numbers that a run file must end with."""
    known = {*curve_names(judged), "seconds_per_epoch"} - {"seconds"}
    return known | {*TESTED, "best_epoch"} if judged == "validation" else known
