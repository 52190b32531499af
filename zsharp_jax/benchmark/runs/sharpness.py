"""The sharpness of runs, in `sharpness.jsonl` beside their run files: a line each."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from zsharp_jax.benchmark.runs.fields import (
    FORMAT,
    DamagedError,
    Record,
    brief,
    dictionary,
    integer,
    number,
    word,
)
from zsharp_jax.benchmark.runs.lines import alone_in, put_records, read_records
from zsharp_jax.benchmark.runs.weights import SHA256

SHARPNESS = "sharpness.jsonl"
SPLITS = ("train", "test")
MEASURES = {
    "loss": "mean loss over the images, with BatchNorm in evaluation mode",
    "lambda_max": "largest eigenvalue of the Hessian of that loss",
    "lambda_min": "smallest one",
    "trace": "sum of all of them",
    "trace_error": "standard error of the trace",
}
_MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class Sharpness:
    """What a line tells.

    Attributes:
        weights_sha256: Of the weights that were measured.
        how: On how many `images` of each of `SPLITS` and with how many samples it was measured.
        measures: For `train` and `test` images the values of `MEASURES`.
        spectrum: For both the eigenvalues and their weights, see `hessian_spectrum`.
    """

    weights_sha256: str
    how: dict[str, Any]
    measures: dict[str, dict[str, float]]
    spectrum: dict[str, tuple[np.ndarray, np.ndarray]]


def read_sharpness(path: pathlib.Path, problems: list[str]) -> dict[str, Sharpness]:
    """What a file tells, by the names of the runs.

    Args:
        path: The file.
        problems: Where a sentence is added for each line that is damaged.
    """
    if not path.exists():
        return {}
    return read_records(path, _MOST_BYTES, problems, lambda _, record: _sharpness_of(record))


def write_sharpness(folder: pathlib.Path, record: Record) -> None:
    """Adds the line of a run, or replaces it."""
    with alone_in(folder):
        put_records(folder / SHARPNESS, {record["name"]: record})


def _sharpness_of(record: Record) -> Sharpness:
    if integer(record, "format") != FORMAT:
        raise DamagedError(f"`format` must be {FORMAT}, got {brief(record['format'])}")
    parts = {split: dictionary(record, split) for split in SPLITS}
    how = dictionary(record, "how")
    for split in SPLITS:
        integer(dictionary(how, "images"), split)
    return Sharpness(
        word(record, SHA256),
        how,
        {split: {m: number(part.get(m), m) for m in MEASURES} for split, part in parts.items()},
        {split: _spectrum(part) for split, part in parts.items()},
    )


def _spectrum(part: Record) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = (_numbers(part, name) for name in ("eigenvalues", "weights"))
    if len(nodes) != len(weights) or not len(nodes):
        raise DamagedError(f"as many `weights` as `eigenvalues` must be there, got {len(weights)}")
    return nodes, weights


def _numbers(part: Record, name: str) -> np.ndarray:
    values = part.get(name)
    if not isinstance(values, list):
        raise DamagedError(f"`{name}` must be a list, got {brief(values)}")
    return np.array([number(value, name) for value in values], float)
