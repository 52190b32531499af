"""The loss around a solution, on a line and on a plane in filter-normalised directions."""

from typing import Any

import jax
import numpy as np

from zsharp_jax.benchmark.measuring.solutions import Solution
from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.sharpness import filter_normalized, loss_along

LINE = np.linspace(-1, 1, 41, dtype=np.float32)


def loss_on_line(solution: Solution, seed: int) -> np.ndarray:
    """The losses on training images at w + c d for the coefficients c in `LINE`.

    Args:
        solution: What lies at 0.
        seed: Decides the direction d, up to the lengths of its filters.

    Raises:
        DamagedError: If no loss is finite.
    """
    return _losses(solution, seed, LINE[:, None])


def loss_on_plane(solution: Solution, seed: int, points: int) -> np.ndarray:
    """The losses on training images at w + c d + e f, of shape (points, points): e, then c.

    Args:
        solution: What lies at 0.
        seed: Decides both directions; the first is that of `loss_on_line`.
        points: How many values c and e have, from -1 to 1.

    Raises:
        DamagedError: If no loss is finite.
    """
    axis = np.linspace(-1, 1, points, dtype=np.float32)
    return _losses(solution, seed, np.stack(np.meshgrid(axis, axis), axis=-1))


def _losses(solution: Solution, seed: int, coefficients: np.ndarray) -> np.ndarray:
    loss_fn, params, *inputs = solution.inputs("train")
    keys = (jax.random.fold_in(jax.random.key(seed), i) for i in range(coefficients.shape[-1]))
    directions: list[Any] = [filter_normalized(key, params) for key in keys]
    parts = solution.parts("train")
    try:
        losses = loss_along(loss_fn, params, directions, coefficients, *inputs, **parts)
    except FloatingPointError as error:
        raise DamagedError(str(error).rstrip(".")) from None
    return np.asarray(jax.device_get(losses), float)
