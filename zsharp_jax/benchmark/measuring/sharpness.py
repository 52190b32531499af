"""The sharpness of one solution, as a line of `sharpness.jsonl` tells it."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zsharp_jax import sam
from zsharp_jax.benchmark.measuring.solutions import Solution, Solutions
from zsharp_jax.benchmark.runs.fields import FORMAT, DamagedError, Record
from zsharp_jax.benchmark.runs.reading import Run
from zsharp_jax.benchmark.runs.settings import RECIPES
from zsharp_jax.benchmark.runs.sharpness import SPLITS
from zsharp_jax.benchmark.runs.weights import SHA256
from zsharp_jax.benchmark.training.tensors import tensors_of
from zsharp_jax.sharpness import (
    average_loss,
    hessian_spectrum,
    hessian_trace,
    loss_along,
    worst_loss,
)

SAMPLES = {"spectrum_steps": 30, "trace_samples": 30, "worst_steps": 20, "average_samples": 30}
PARTS = 6 * len(SPLITS)  # how often `tell` of `measured` is called


def how(solutions: Solutions, run: Run) -> dict[str, Any]:
    """What decides the numbers of a run, beside its weights.

    Attributes of the result: `images` of each split, what `SAMPLES` says, the two `radii`, SAM's
    and that of the authors' code, and `seed`.

    Raises:
        RequestError: If there are not as many images as were asked for.
        DamagedError: If the run is none of this version.
    """
    images = solutions.counts(run)
    filtered = tensors_of(run.model, run.dataset).filtered
    rho = RECIPES[str(run.settings.get("recipe", "paper"))].rho
    return {"images": images, **SAMPLES, "radii": [rho, rho * math.sqrt(filtered)], "seed": 0}


def measured(
    run: Run, solution: Solution, how: dict[str, Any], tell: Callable[[str], None]
) -> Record:
    """Measures a run.

    Args:
        run: What is measured.
        solution: What it came to.
        how: See the function of that name.
        tell: Called `PARTS` times with what is measured next.

    Raises:
        DamagedError: If a loss or a measure is not finite.
    """
    started = time.perf_counter()
    record: Record = {"format": FORMAT, "name": run.path.stem, SHA256: run.weights_sha256}
    record["how"] = how
    try:
        for split in SPLITS:
            record[split] = _measures(solution, split, how, tell)
    except FloatingPointError as error:
        raise DamagedError(str(error).rstrip(".")) from None
    return record | {"seconds": time.perf_counter() - started}


def _measures(
    solution: Solution, split: str, how: dict[str, Any], tell: Callable[[str], None]
) -> dict[str, Any]:
    inputs, parts = solution.inputs(split), solution.parts(split)
    keys = jax.random.split(jax.random.key(how["seed"]), 3)
    tell(f"{split} images: spectrum")
    spectrum = hessian_spectrum(*inputs, key=keys[0], steps=how["spectrum_steps"], **parts)
    tell(f"{split} images: trace")
    trace = hessian_trace(*inputs, key=keys[1], samples=how["trace_samples"], **parts)
    worst, average = [], []
    for rho in how["radii"]:
        tell(f"{split} images: worst loss within {rho:.3g}")
        worst += _numbers([_worst(*inputs, rho=np.float32(rho), steps=how["worst_steps"], **parts)])
    for rho in how["radii"]:
        tell(f"{split} images: average loss at {rho:.3g}")
        average.append(
            average_loss(*inputs, key=keys[2], rho=rho, samples=how["average_samples"], **parts)
        )
    if not np.isfinite(worst).all():
        raise FloatingPointError(f"the loss around the weights must be finite, got {worst}")
    eigenvalues = _numbers(spectrum.eigenvalues)
    clean = loss_along(*inputs[:2], [inputs[1]], np.zeros((1, 1), np.float32), *inputs[2:], **parts)
    return {
        "loss": _numbers(clean)[0],
        "lambda_max": eigenvalues[-1],
        "lambda_min": eigenvalues[0],
        "trace": float(trace.mean),
        "trace_error": float(trace.standard_error),
        "worst_loss": worst,
        "average_loss": _numbers([estimate.mean for estimate in average]),
        "average_loss_error": _numbers([estimate.standard_error for estimate in average]),
        "eigenvalues": eigenvalues,
        "weights": _numbers(spectrum.weights),
    }


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("steps", "microbatches", "batch_argnums")
)
def _worst(
    loss_fn: Callable[..., jax.Array],
    params: Any,
    *inputs: Any,
    rho: jax.Array,
    steps: int,
    **parts: Any,
) -> jax.Array:
    """Compiled once for all radii."""
    return worst_loss(loss_fn, params, *inputs, ascent=sam(rho), steps=steps, **parts)


def _numbers(values: Any) -> list[float]:
    return np.asarray(jax.device_get(values), float).tolist()
