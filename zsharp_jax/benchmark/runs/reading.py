"""Reads run files that may come from anywhere: what is damaged is refused in one sentence."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.fields import (
    FORMAT,
    DamagedError,
    Record,
    Value,
    brief,
    curve,
    dictionary,
    integer,
    number,
    seconds,
    setting,
    word,
)
from zsharp_jax.benchmark.runs.json_files import read_json
from zsharp_jax.benchmark.runs.lines import read_records
from zsharp_jax.benchmark.runs.outcome import judged_in
from zsharp_jax.benchmark.runs.packed import PACKED
from zsharp_jax.benchmark.runs.sharpness import SHARPNESS, Sharpness, read_sharpness
from zsharp_jax.benchmark.runs.weights import SHA256

NEEDED_CURVES = ("train_loss", "sharp_loss", "perturbation_norm")  # beside an accuracy
_MOST_PACKED = 2**30  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run, as far as tables and figures need it.

    Attributes:
        path: Its file; for a line of `runs.jsonl` the one that it would have alone.
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
        judged: What it was judged on after every epoch: `test`, or `validation`.
        curves: A value per epoch for each of `NEEDED_CURVES`, and `test_accuracy` or
            `validation_accuracy`.
        test_accuracy: At its end; NaN where a run that is not whole was judged otherwise.
        images_per_epoch: How many training images the steps of a whole epoch take.
        seconds_per_epoch: The median of its epochs; NaN where the file does not tell.
        compile_seconds: How long its program took to compile; NaN where the file does not tell.
        origin: What it was made on and with: device, JAX, commit.
        weights_sha256: Of its last weights, where it kept them; see `weights_path`.
        sharpness: What was measured of these weights, where it was.
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
    judged: str
    curves: dict[str, np.ndarray]
    test_accuracy: float
    images_per_epoch: int
    seconds_per_epoch: float
    compile_seconds: float
    origin: dict[str, str]
    weights_sha256: str | None = None
    sharpness: Sharpness | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it finished after as many steps as it was to take."""
        return self.status == "finished" and self.steps == self.planned_steps


def read_folder(folder: pathlib.Path) -> tuple[list[Run], list[str]]:
    """Reads all run files in a folder and in the folders in it.

    Args:
        folder: Where to look for `*.json`, `runs.jsonl` and `sharpness.jsonl`.

    Returns:
        The runs in the order of their paths, and a sentence for each file that is none.

    Raises:
        RequestError: If there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise RequestError(f"`FOLDER` must be a folder with run files, got {folder}")
    alone, packed, problems = {}, {}, []
    measured: dict[pathlib.Path, Sharpness] = {}
    for path in sorted(_candidates(folder, problems)):
        if path.name == PACKED:
            packed |= _read_packed(path, problems)
            continue
        if path.name == SHARPNESS:
            found = read_sharpness(path, problems)
            measured |= {path.with_name(f"{name}.json"): found[name] for name in found}
            continue
        try:
            alone[path] = read_run(path)
        except DamagedError as error:
            problems.append(f"{path}: {error}")
    runs = [_measured(run, measured.get(path)) for path, run in sorted((packed | alone).items())]
    if not runs and not problems:
        raise RequestError(f"there is no run file (*.json or {PACKED}) in {folder}")
    return runs, problems


def _measured(run: Run, sharpness: Sharpness | None) -> Run:
    """The run with its sharpness, if that was measured of its weights."""
    if sharpness is None or sharpness.weights_sha256 != run.weights_sha256:
        return run
    return dataclasses.replace(run, sharpness=sharpness)


def _read_packed(path: pathlib.Path, problems: list[str]) -> dict[pathlib.Path, Run]:
    """The runs of a packed file by the files that they would have alone."""

    def own_file(name: str) -> pathlib.Path:
        return path.with_name(f"{name}.json")

    def read(name: str, record: Record) -> Run:
        return run_of(own_file(name), record)

    runs = read_records(path, _MOST_PACKED, problems, read)
    return {own_file(name): run for name, run in runs.items()}


def _candidates(folder: pathlib.Path, problems: list[str]) -> Iterator[pathlib.Path]:
    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=note):
        names = (n for n in (*folders, *files) if n.endswith(".json") or n in (PACKED, SHARPNESS))
        yield from (pathlib.Path(parent, name) for name in names)


def read_run(path: pathlib.Path) -> Run:
    """Reads a run file.

    Raises:
        DamagedError: If it is none, or not whole.
    """
    return run_of(path, read_json(path))


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
    judged = judged_in(dictionary(record, "curves"))
    curves = {
        name: curve(dictionary(record, "curves"), name)
        for name in (*NEEDED_CURVES, f"{judged}_accuracy")
    }
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
        judged=judged,
        curves=curves,
        test_accuracy=_test_accuracy(final),
        images_per_epoch=steps_per_epoch * integer(settings, "batch_size", 1),
        seconds_per_epoch=seconds(final, "seconds_per_epoch"),
        compile_seconds=seconds(record, "compile_seconds"),
        origin=_origin(record),
        weights_sha256=word(record, SHA256) if SHA256 in record else None,
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
    if math.isnan(run.test_accuracy):
        raise DamagedError("`final.test_accuracy` must be a number, got null")
    for name, values in run.curves.items():
        if number(final.get(name), f"final.{name}") != values[-1]:
            raise DamagedError(f"`final.{name}` must be {values[-1]}, the last of its curve")


def _test_accuracy(final: dict[str, Any]) -> float:
    value = final.get("test_accuracy")
    if value is None:
        return math.nan
    if not 0 <= number(value, "final.test_accuracy") <= 1:
        raise DamagedError(f"`final.test_accuracy` must lie in [0, 1], got {brief(value)}")
    return float(value)


def _origin(record: dict[str, Any]) -> dict[str, str]:
    def told(part: str, name: str) -> Any:
        within = record.get(part)
        return within.get(name) if isinstance(within, dict) else None

    device, cores = told("device", "kind"), told("device", "cpu_cores")
    at_once = record.get("trained_at_once")
    if device == "cpu" and isinstance(cores, int):  # JAX calls every CPU by that name
        device = f"{cores}-core cpu"
    found = {
        "at once": str(at_once) if isinstance(at_once, int) else None,
        "device": device,
        "JAX": told("versions", "jax"),
        "precision": told("device", "matmul_precision"),
        "commit": record.get("commit"),
    }
    return {
        name: value[:12] if name == "commit" else value[:60]
        for name, value in found.items()
        if isinstance(value, str)
    }
