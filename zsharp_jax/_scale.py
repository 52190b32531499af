"""Brings a gradient to a norm of rho, a number or a schedule: the last link of every ascent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_choice, checked_nonnegative, checked_rho
from zsharp_jax._filter import Scope
from zsharp_jax._precision import at_least_float32, tree_norm

PAPER_DELTA = 1e-8


class ScaleToNormState(NamedTuple):
    """What one ascent hands to the next.

    Attributes:
        ascents: How many ascents have been taken, an int32 scalar; a schedule of rho reads it.
    """

    ascents: jax.Array


def scale_to_norm(
    rho: optax.ScalarOrSchedule, *, scope: Scope = "global", delta: float = PAPER_DELTA
) -> optax.GradientTransformation:
    """Brings gradients to an L2 norm of rho: rho x / (||x|| + delta).

    Args:
        rho: The norm to reach, at least 0, or a schedule of the number of calls before this one.
        scope: `"global"` takes one norm over the whole tree, `"layer"` brings each tensor to rho
            by itself.
        delta: Keeps the quotient finite (paper: 1e-8).

    Returns:
        A transformation that counts its calls in its state. Norms are taken in float32 at least;
        the result has the dtype of the gradient. A NaN gives NaN; entries whose squares overflow
        (1e19 in float32) make the norm infinite and the result 0.

    Raises:
        ValueError: If `rho`, `scope` or `delta` is out of range.

    Example:
        >>> transformation = scale_to_norm(10.0)
        >>> gradient = jnp.array([3.0, 4.0])
        >>> scaled, state = transformation.update(gradient, transformation.init(gradient))
        >>> print(scaled, state.ascents)
        [6. 8.] 1

    References:
        Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering, eq. 1 and 4.
    """
    checked_choice("scope", scope, ("global", "layer"))
    checked_nonnegative("delta", delta)

    def direction(gradients):
        if scope == "layer":
            return jax.tree.map(lambda leaf: over_norm(leaf, tree_norm(leaf), delta), gradients)
        norm = tree_norm(gradients)
        return jax.tree.map(lambda leaf: over_norm(leaf, norm, delta), gradients)

    return rho_times(rho, direction)


def rho_times(
    rho: optax.ScalarOrSchedule, direction: Callable[[optax.Updates], optax.Updates]
) -> optax.GradientTransformation:
    """rho, constant or scheduled, times the `direction` of the gradients, in their dtype."""
    rho = checked_rho(rho)

    def init_fn(params):
        del params
        return ScaleToNormState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        length = jnp.maximum(rho(state.ascents) if callable(rho) else rho, 0)
        perturbation = jax.tree.map(lambda leaf: length * leaf, direction(updates))
        perturbation = optax.tree.cast_like(perturbation, updates)
        return perturbation, ScaleToNormState(next_ascent(state.ascents))

    return optax.GradientTransformation(init_fn, update_fn)


def next_ascent(ascents: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(ascents))  # it stops at the largest int32


def over_norm(gradient: jax.Array, norm: jax.Array, delta: float) -> jax.Array:
    """gradient / (norm + delta) in float32 at least; 0 where the norm is 0, NaN where it is NaN."""
    return at_least_float32(gradient) / jnp.where(norm == 0, 1, norm + delta)
