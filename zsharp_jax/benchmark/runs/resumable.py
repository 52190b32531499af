"""What a run may go on from; other settings are refused with the difference."""

import contextlib
import dataclasses
import fnmatch
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.methods import METHODS
from zsharp_jax.benchmark.runs.packed import packed_records
from zsharp_jax.benchmark.runs.settings import Settings

CHECKPOINTS = "checkpoints"  # in the folder of the run files
VARIED = {"method", "seed", "rho", "quantile", "eta"}  # within one study


def refuse_other_settings(folder: pathlib.Path, runs: Sequence[Settings], data_sha256: str) -> None:
    """Refuses where nothing is there of what shall be resumed, but runs of the same methods and
    seeds are, with other settings or data: training anew is not what was meant.

    Args:
        folder: Where run files and checkpoints lie.
        runs: What shall be resumed.
        data_sha256: The digest of their data.

    Raises:
        RequestError: With what the first of those runs differs in.
    """
    names = [settings.run_name(data_sha256) for settings in runs]
    if any(True for name in names for _ in _traces(folder, name)):
        return
    if any(shorter_runs(folder, settings, data_sha256) for settings in runs):
        return
    for settings, name in zip(runs, names, strict=True):
        prefix, _, _ = name.rpartition("-")
        for other, found in _traces(folder, f"{prefix}-*"):
            if _name_with(settings, found, data_sha256) == other:  # differs in length alone
                raise RequestError(f"cannot go on from {other}: {_no_extension(settings)}")
            differences = _differences(settings.as_dict(), found)
            raise RequestError(f"cannot resume {other}: {differences}")


def shorter_runs(folder: pathlib.Path, settings: Settings, data_sha256: str) -> list[str]:
    """The runs in `folder` that kept checkpoints and are the beginning of a run: they differ from
    it in nothing but in how many epochs or steps they take. The longest is the first.

    Nothing that a run does depends on how long it will be, but for methods that say so.
    """
    if METHODS[settings.method].depends_on_length:
        return []
    name = settings.run_name(data_sha256)
    prefix, _, _ = name.rpartition("-")
    found = {}
    for other in (folder / CHECKPOINTS).glob(f"{prefix}-*"):
        steps = [int(path.name) for path in other.iterdir() if path.name.isdecimal()]
        theirs = _name_with(settings, _settings_in(other), data_sha256)
        if steps and theirs == other.name != name:
            found[other.name] = max(steps)
    return sorted(found, key=lambda name: found[name], reverse=True)


def _name_with(settings: Settings, found: dict[str, Any], data_sha256: str) -> str | None:
    """The name of the run with the length of another one."""
    try:
        length = {"epochs": found["epochs"], "steps": found["steps"]}
        return dataclasses.replace(settings, **length).run_name(data_sha256)
    except (KeyError, TypeError, RequestError):  # settings of a damaged file
        return None


def _no_extension(settings: Settings) -> str:
    if reason := METHODS[settings.method].depends_on_length:
        return f"{settings.method} {reason}, so it cannot be extended to another length"
    return (
        "it kept no checkpoint, as --checkpoint-every was not given; --overwrite trains it anew, "
        "and another --out keeps it"
    )


def refuse_other_plans(folder: pathlib.Path, settings: Settings) -> None:
    """Refuses a folder that holds runs of another plan: with settings that a study does not vary.

    Args:
        folder: Where run files lie.
        settings: Of any run of the study.

    Raises:
        RequestError: With what the first such run differs in.
    """
    asked = _plan(settings.as_dict())
    for name, found in _traces(folder, "*"):
        if found and _plan(found) != asked:
            raise RequestError(
                f"{folder} holds runs of another plan, as {name}: "
                f"{_differences(asked, _plan(found))}; name another folder with --out"
            )


def _plan(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in VARIED}


def _traces(folder: pathlib.Path, pattern: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings of the runs that have a file, a packed line or checkpoints."""
    for trace in sorted([*folder.glob(f"{pattern}.json"), *(folder / CHECKPOINTS).glob(pattern)]):
        yield trace.name.removesuffix(".json"), _settings_in(trace)
    for name, record in packed_records(folder):
        if fnmatch.fnmatchcase(name, pattern):
            found = record.get("settings")
            yield name, found if isinstance(found, dict) else {}


def _settings_in(trace: pathlib.Path) -> dict[str, Any]:
    """The settings of a run; empty where they cannot be read."""
    files = sorted(trace.glob("*/about/metadata")) if trace.is_dir() else [trace]
    for path in files:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return dict(json.loads(path.read_text())["settings"])
    return {}


def _differences(asked: dict[str, Any], found: dict[str, Any]) -> str:
    differences = [
        f"{name} was {found.get(name)!r} there and is {asked.get(name)!r} here"
        for name in dict.fromkeys((*asked, *found))
        if found.get(name) != asked.get(name)
    ]
    return "; ".join(differences) or "its data were others"
