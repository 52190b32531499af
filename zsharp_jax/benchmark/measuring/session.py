"""Measures the runs of a folder one after the other, and goes on where it had stopped."""

import pathlib
from collections.abc import Sequence
from typing import Any

from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.measuring.progress import MeasuringProgress
from zsharp_jax.benchmark.measuring.sharpness import PARTS, how, measured
from zsharp_jax.benchmark.measuring.solutions import Solutions
from zsharp_jax.benchmark.runs.fields import DamagedError, Record
from zsharp_jax.benchmark.runs.reading import Run
from zsharp_jax.benchmark.runs.sharpness import write_sharpness


def with_weights(runs: Sequence[Run], folder: pathlib.Path) -> list[Run]:
    """Those that have finished and kept their weights.

    Raises:
        RequestError: If there is none.
    """
    found = [run for run in runs if run.is_whole and run.weights_sha256]
    if not found:
        raise RequestError(
            f"`RUNS` must have finished runs with weights, got {folder} with none of "
            f"{len(runs)}: train with --keep-weights, or add it and --resume to the command that "
            "trained them"
        )
    return found


def measure(runs: Sequence[Run], origin: Origin, images: int | None) -> tuple[int, list[str]]:
    """Measures runs and writes the line of each as soon as it is known.

    Args:
        runs: Runs with weights.
        origin: Where their datasets may come from.
        images: See `Solutions`.

    Returns:
        How many were measured now, and a sentence for each that could not be.

    Raises:
        RequestError: If there are not as many images as were asked for.
    """
    solutions, problems = Solutions(origin, images), []
    left: list[tuple[Run, dict[str, Any]]] = []
    for run in runs:
        try:
            wanted = how(solutions, run)
        except DamagedError as error:
            problems.append(f"{run.path}: {error}")
        else:
            if run.sharpness is None or run.sharpness.how != wanted:
                left.append((run, wanted))
    if not left:
        return 0, problems
    count = 0
    with MeasuringProgress(len(left), PARTS) as progress:
        for run, wanted in left:
            name = f"{run.method}, rho {run.settings.get('rho', 0):g}, seed {run.seed}"
            progress.begin(name)
            try:
                record = measured(run, solutions.of(run), wanted, progress.tell)
            except DamagedError as error:
                problems.append(f"{run.path}: {error}")
                progress.finish(f"{name}: {error}")
                continue
            write_sharpness(run.path.parent, record)
            count += 1
            progress.finish(f"{name}: {told(record)}")
    return count, problems


def told(record: Record) -> str:
    """A line about a run that was measured."""
    parts = []
    for split in ("train", "test"):
        found = record[split]
        parts.append(
            f"{split}: λ_max {found['lambda_max']:.4g}, λ_min {found['lambda_min']:.3g}, trace "
            f"{found['trace']:.4g} ± {found['trace_error']:.2g}, loss {found['loss']:.4g}, worst "
            + " and ".join(f"{value:.4g}" for value in found["worst_loss"])
        )
    return "; ".join(parts)
