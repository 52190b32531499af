"""What a mean over random draws says, and how far it can be trusted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Estimate(NamedTuple):
    """A mean over random draws.

    Attributes:
        mean: The mean of the draws, a scalar in float32 at least.
        standard_error: The standard deviation of that mean, likewise: that of the draws (with
            n - 1) over the square root of their number.
    """

    mean: jax.Array
    standard_error: jax.Array


def estimate_of(draws: jax.Array) -> Estimate:
    """The mean of at least two draws."""
    return Estimate(jnp.mean(draws), jnp.std(draws, ddof=1) / jnp.sqrt(float(len(draws))))
