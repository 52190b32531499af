"""Refuses to resume what was trained with other settings, and tells the difference."""

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.settings import Settings

CHECKPOINTS = "checkpoints"  # in the folder of the run files


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
    if any(_traces(folder, name) for name in names):
        return
    for settings, name in zip(runs, names, strict=True):
        prefix, _, _ = name.rpartition("-")
        for other in _traces(folder, f"{prefix}-*"):
            raise RequestError(
                f"cannot resume {other.stem}: {_differences(settings, _settings_in(other))}"
            )


def _traces(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The run files and the folders of checkpoints of a name, which may be a pattern."""
    return sorted([*folder.glob(f"{name}.json"), *(folder / CHECKPOINTS).glob(name)])


def _settings_in(trace: pathlib.Path) -> dict[str, Any]:
    """The settings of a run; empty where they cannot be read."""
    files = sorted(trace.glob("*/about/metadata")) if trace.is_dir() else [trace]
    for path in files:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return dict(json.loads(path.read_text())["settings"])
    return {}


def _differences(settings: Settings, found: dict[str, Any]) -> str:
    asked = settings.as_dict()
    differences = [
        f"{name} was {found.get(name)!r} there and is {asked.get(name)!r} here"
        for name in dict.fromkeys((*asked, *found))
        if found.get(name) != asked.get(name)
    ]
    return "; ".join(differences) or "its data were others"
