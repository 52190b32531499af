"""Reads run files that may come from anywhere: what is damaged is refused in one sentence."""

import dataclasses
import json
import math
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.fields import (
    DamagedError,
    brief,
    curve,
    dictionary,
    integer,
    number,
    seconds,
    setting,
    word,
)
from zsharp_jax.benchmark.paper import Value
from zsharp_jax.benchmark.results import FORMAT

NEEDED_CURVES = ("train_loss", "sharp_loss", "perturbation_norm", "test_accuracy")
_MOST_BYTES = 2**24  # some hundred times what 200 epochs take


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
            `data_sha256`, the start of that of the images, and `steps_per_epoch`.
        status: `finished`, or how else it ended.
        error: Why it failed, or None.
        steps: How many steps it took.
        planned_steps: How many it was to take.
        curves: A value per epoch for each of `NEEDED_CURVES`.
        images_per_epoch: How many training images the steps of a whole epoch take.
        seconds_per_epoch: The median of its epochs; NaN where the file does not tell.
        compile_seconds: How long its program took to compile; NaN where the file does not tell.
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
    images_per_epoch: int
    seconds_per_epoch: float
    compile_seconds: float
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
    return run_of(path, read_json(path))


def read_json(path: pathlib.Path) -> Any:
    """What a file holds, whatever it is.

    Raises:
        DamagedError: If it is no JSON, or too large.
    """
    try:
        return json.loads(_content(path), parse_constant=_refuse_constant)
    except OSError as error:
        raise DamagedError(error.strerror or "cannot be read") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedError(f"not JSON: {reason}") from None


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


def run_of(path: pathlib.Path, record: Any) -> Run:
    """The run that a file tells of.

    Raises:
        DamagedError: If it tells of none, or not all.
    """
    if not isinstance(record, dict) or "format" not in record:
        raise DamagedError("not a run file: it has no `format`")
    if integer(record, "format") != FORMAT:
        raise DamagedError(f"`format` must be {FORMAT}, got {brief(record['format'])}")
    settings = dictionary(record, "settings")
    steps_per_epoch, steps = integer(record, "steps_per_epoch", 1), integer(record, "steps")
    error, final = record.get("error"), dictionary(record, "final")
    run = Run(
        path,
        dataset=word(settings, "dataset"),
        model=word(settings, "model"),
        method=word(settings, "method"),
        seed=integer(settings, "seed"),
        settings={
            **_other_settings(settings),
            "data_sha256": word(record, "data_sha256")[:12],
            "steps_per_epoch": steps_per_epoch,
        },
        status=word(record, "status"),
        error=error[:200] if isinstance(error, str) else None,
        steps=steps,
        planned_steps=_planned_steps(settings, steps_per_epoch),
        curves={name: curve(dictionary(record, "curves"), name) for name in NEEDED_CURVES},
        images_per_epoch=steps_per_epoch * integer(settings, "batch_size", 1),
        seconds_per_epoch=seconds(final, "seconds_per_epoch"),
        compile_seconds=seconds(record, "compile_seconds"),
        origin=_origin(record),
    )
    _check_length(run, steps_per_epoch, final)
    return run


def _planned_steps(settings: dict[str, Any], steps_per_epoch: int) -> int:
    if settings.get("steps") is not None:
        return integer(settings, "steps", 1)
    return integer(settings, "epochs", 1) * steps_per_epoch


def _other_settings(settings: dict[str, Any]) -> dict[str, Value]:
    checked = {name: setting(settings, name) for name in settings}
    return {
        name: value
        for name, value in checked.items()
        if value is not None and name not in ("dataset", "model", "method", "seed")
    }


def _check_length(run: Run, steps_per_epoch: int, final: dict[str, Any]) -> None:
    lengths = {len(values) for values in run.curves.values()}
    most = math.ceil(run.steps / steps_per_epoch)
    if len(lengths) > 1 or max(lengths) > most:
        raise DamagedError(f"its curves must have {most} values each, got {sorted(lengths)}")
    if not run.is_whole:
        return
    if lengths != {most}:
        raise DamagedError(f"its curves must have {most} values each, got {max(lengths)}")
    for name, values in run.curves.items():
        if number(final.get(name), f"final.{name}") != values[-1]:
            raise DamagedError(f"`final.{name}` must be {values[-1]}, the last of its curve")


def _origin(record: dict[str, Any]) -> dict[str, str]:
    def told(part: str, name: str) -> Any:
        within = record.get(part)
        return within.get(name) if isinstance(within, dict) else None

    device, cores = told("device", "kind"), told("device", "cpu_cores")
    if device == "cpu" and isinstance(cores, int):  # JAX calls every CPU by that name
        device = f"{cores}-core cpu"
    found = {
        "device": device,
        "JAX": told("versions", "jax"),
        "commit": record.get("commit"),
    }
    return {
        name: value[:12] if name == "commit" else value[:60]
        for name, value in found.items()
        if isinstance(value, str)
    }
