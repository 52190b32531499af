"""Reads run files that may come from anywhere: what is damaged is refused in one sentence."""

import dataclasses
import json
import math
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.paper import Value
from zsharp_jax.benchmark.results import FORMAT

NEEDED_CURVES = ("train_loss", "sharp_loss", "perturbation_norm", "test_accuracy")
_MOST_BYTES = 2**24  # some hundred times what 200 epochs take
_LARGEST = 1e39  # beyond float32; sums and squares of such numbers are still float64
_MOST_STEPS = 2**40
_NAME = re.compile(r"[\w.+-]{1,80}", re.ASCII)
_TEXT = re.compile(r"[\w.,:+/() -]{0,80}", re.ASCII)


class DamagedError(Exception):
    """A file is no whole run file, said in one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run, as far as tables and figures need it.

    Attributes:
        path: Its file.
        dataset: What was trained on.
        model: The network.
        method: What was trained.
        seed: The seed.
        settings: All other settings that are not None, whatever they are called, and with them
            `data`, the start of the digest of the images, and `steps_per_epoch`.
        status: `finished`, or how else it ended.
        error: Why it failed, or None.
        steps: How many steps it took.
        planned_steps: How many it was to take.
        curves: A value per epoch for each of `NEEDED_CURVES`.
        origin: What it was made on and with: device, JAX, commit.
    """

    path: pathlib.Path
    dataset: str
    model: str
    method: str
    seed: int
    settings: dict[str, Value]
    status: str
    error: str | None
    steps: int
    planned_steps: int
    curves: dict[str, np.ndarray]
    origin: dict[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether it finished after as many steps as it was to take."""
        return self.status == "finished" and self.steps == self.planned_steps


def read_folder(folder: pathlib.Path) -> tuple[list[Run], list[str]]:
    """Reads all run files in a folder and in the folders in it.

    Args:
        folder: Where to look for `*.json`.

    Returns:
        The runs in the order of their paths, and a sentence for each file that is none.

    Raises:
        RequestError: If there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise RequestError(f"`FOLDER` must be a folder with run files, got {folder}")
    runs, problems = [], []
    for path in sorted(_candidates(folder, problems)):
        try:
            runs.append(read_run(path))
        except DamagedError as error:
            problems.append(f"{path}: {error}")
    if not runs and not problems:
        raise RequestError(f"there is no run file (*.json) in {folder}")
    return runs, problems


def _candidates(folder: pathlib.Path, problems: list[str]) -> Iterator[pathlib.Path]:
    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=note):
        yield from (pathlib.Path(parent, n) for n in (*folders, *files) if n.endswith(".json"))


def read_run(path: pathlib.Path) -> Run:
    """Reads a run file.

    Raises:
        DamagedError: If it is none, or not whole.
    """
    try:
        record = json.loads(_content(path), parse_constant=_refuse_constant)
    except OSError as error:
        raise DamagedError(error.strerror or "cannot be read") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedError(f"not JSON: {reason}") from None
    return _run(path, record)


def _content(path: pathlib.Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us waiting
        raise DamagedError("not a file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DamagedError(f"larger than the {_MOST_BYTES} bytes that a run file may have")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _run(path: pathlib.Path, record: Any) -> Run:
    if not isinstance(record, dict) or "format" not in record:
        raise DamagedError("not a run file: it has no `format`")
    if _integer(record, "format") != FORMAT:
        raise DamagedError(f"`format` must be {FORMAT}, got {_brief(record['format'])}")
    settings = _dictionary(record, "settings")
    steps_per_epoch, steps = _integer(record, "steps_per_epoch", 1), _integer(record, "steps")
    error = record.get("error")
    run = Run(
        path,
        dataset=_name(settings, "dataset"),
        model=_name(settings, "model"),
        method=_name(settings, "method"),
        seed=_integer(settings, "seed"),
        settings={
            **_other_settings(settings),
            "data": _name(record, "data_sha256")[:8],
            "steps_per_epoch": steps_per_epoch,
        },
        status=_name(record, "status"),
        error=error[:200] if isinstance(error, str) else None,
        steps=steps,
        planned_steps=_planned_steps(settings, steps_per_epoch),
        curves=_curves(record),
        origin=_origin(record),
    )
    _check_length(run, steps_per_epoch, _dictionary(record, "final"))
    return run


def _planned_steps(settings: dict[str, Any], steps_per_epoch: int) -> int:
    if settings.get("steps") is not None:
        return _integer(settings, "steps", 1)
    return _integer(settings, "epochs", 1) * steps_per_epoch


def _other_settings(settings: dict[str, Any]) -> dict[str, Value]:
    others = {}
    for name, value in settings.items():
        if not _NAME.fullmatch(name):
            raise DamagedError(f"a setting must be named by a word, got {_brief(name)}")
        if isinstance(value, str) and not _TEXT.fullmatch(value):
            raise DamagedError(f"`{name}` must be a short text, got {_brief(value)}")
        if value is not None and not isinstance(value, str | bool):
            _number(value, name)
        if value is not None and name not in ("dataset", "model", "method", "seed"):
            others[name] = value
    return others


def _curves(record: dict[str, Any]) -> dict[str, np.ndarray]:
    curves = _dictionary(record, "curves")
    for name in NEEDED_CURVES:
        if not isinstance(curves.get(name), list):
            raise DamagedError(f"`curves.{name}` must be a list, got {_brief(curves.get(name))}")
        for value in curves[name]:
            if _number(value, f"curves.{name}") < 0:
                raise DamagedError(f"`curves.{name}` must be at least 0, got {value}")
    if max(curves["test_accuracy"], default=0) > 1:
        raise DamagedError(
            f"`curves.test_accuracy` must be at most 1, got {max(curves['test_accuracy'])}"
        )
    return {name: np.array(curves[name], float) for name in NEEDED_CURVES}


def _check_length(run: Run, steps_per_epoch: int, final: dict[str, Any]) -> None:
    lengths = {len(curve) for curve in run.curves.values()}
    most = math.ceil(run.steps / steps_per_epoch)
    if len(lengths) > 1 or max(lengths) > most:
        raise DamagedError(f"its curves must have {most} values each, got {sorted(lengths)}")
    if not run.is_whole:
        return
    if lengths != {most}:
        raise DamagedError(f"its curves must have {most} values each, got {max(lengths)}")
    for name, curve in run.curves.items():
        if _number(final.get(name), f"final.{name}") != curve[-1]:
            raise DamagedError(f"`final.{name}` must be {curve[-1]}, the last of its curve")


def _origin(record: dict[str, Any]) -> dict[str, str]:
    def told(part: str, name: str) -> Any:
        within = record.get(part)
        return within.get(name) if isinstance(within, dict) else None

    found = {
        "device": told("device", "kind"),
        "JAX": told("versions", "jax"),
        "commit": record.get("commit"),
    }
    return {
        name: value[:12] if name == "commit" else value[:60]
        for name, value in found.items()
        if isinstance(value, str)
    }


def _dictionary(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise DamagedError(f"`{name}` must be an object, got {_brief(value)}")
    return value


def _name(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise DamagedError(f"`{name}` must be a word, got {_brief(value)}")
    return value


def _integer(record: dict[str, Any], name: str, least: int = 0) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MOST_STEPS:
        raise DamagedError(f"`{name}` must be an integer from {least} up, got {_brief(value)}")
    return value


def _number(value: Any, name: str) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _LARGEST:
        raise DamagedError(f"`{name}` must be a finite number of float32, got {_brief(value)}")
    return value


def _brief(value: Any) -> str:
    """Enough of a value to recognise it, whatever its size."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a huge integer"
    text = json.dumps(value)  # escapes what does not belong on a terminal
    return text if len(text) <= 40 else f"{text[:40]}…"
