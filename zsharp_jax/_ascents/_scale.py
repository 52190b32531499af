"""Brings a gradient to a norm of rho, a number or a schedule: the last link of every ascent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import checked_choice, checked_nonnegative, checked_rho, scheduled
from zsharp_jax._norm import layer_norm, tree_norm
from zsharp_jax._per_leaf import stacked_of_leaves
from zsharp_jax._precision import at_least_float32
from zsharp_jax._selection import Scope

PAPER_DELTA = 1e-8


class ScaleToNormState(NamedTuple):
    """What one ascent hands to the next.

    Attributes:
        ascents: How many ascents have been taken, an int32 scalar; a schedule of rho reads it.
    """

    ascents: jax.Array


def scale_to_norm(
    rho: optax.ScalarOrSchedule,
    *,
    scope: Scope = "global",
    delta: float = PAPER_DELTA,
    stacked: Any = None,
) -> optax.GradientTransformation:
    """Brings gradients to an L2 norm of rho: rho x / (||x|| + delta).

    Args:
        rho: The norm to reach, at least 0, or a schedule, which gets the number of calls before
            this one.
        scope: `"global"` takes one norm over the whole tree, `"layer"` brings each layer to rho
            by itself.
        delta: Keeps the quotient finite (paper: 1e-8).
        stacked: How many leading axes of a leaf stack layers, each of which has a norm of its own
            with `scope="layer"`; see `zscore_filter`.

    Returns:
        A transformation that counts its calls in its state. Norms are taken in float32 at least;
        the result has the dtype of the gradient. A NaN gives NaN; entries whose squares overflow
        (1e19 in float32) make the norm infinite and the result 0.

    Raises:
        ValueError: If an argument is out of range, or, on update, if `stacked` does not fit.
        TypeError: If a number is given as text.

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

    def direction(gradients, ascents):
        del ascents
        if scope == "layer":
            counts = stacked_of_leaves(stacked, gradients)
            return jax.tree.map(
                lambda leaf, count: over_norm(leaf, layer_norm(leaf, count), delta),
                gradients,
                counts,
            )
        norm = tree_norm(gradients)
        return jax.tree.map(lambda leaf: over_norm(leaf, norm, delta), gradients)

    return rho_times(rho, direction)


def rho_times(
    rho: optax.ScalarOrSchedule,
    direction: Callable[[optax.Updates, jax.Array], optax.Updates],
) -> optax.GradientTransformation:
    """rho, constant or scheduled, times the direction of the gradients, in their dtype.

    Args:
        rho: What every ascent takes.
        direction: From the gradients and the number of ascents taken before this one.
    """
    rho = checked_rho(rho)

    def init_fn(params):
        del params
        return ScaleToNormState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        length = jnp.maximum(scheduled("rho", rho, state.ascents), 0)
        perturbation = jax.tree.map(
            lambda leaf: length.astype(leaf.dtype) * leaf, direction(updates, state.ascents)
        )
        perturbation = optax.tree.cast_like(perturbation, updates)
        return perturbation, ScaleToNormState(next_ascent(state.ascents))

    return optax.GradientTransformation(init_fn, update_fn)


def next_ascent(ascents: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(ascents))  # it stops at the largest int32


def over_norm(gradient: jax.Array, norm: jax.Array, delta: float) -> jax.Array:
    """gradient / (norm + delta) in float32 at least; 0 where the norm is 0, NaN where it is NaN."""
    gradient = at_least_float32(gradient)
    return gradient / jnp.where(norm == 0, 1, norm + delta).astype(gradient.dtype)


def in_float32(ascent: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs a chain in float32 at least, for what its pieces hand on would vanish in float16."""

    def update_fn(updates, state, params=None):
        widened = jax.tree.map(at_least_float32, updates)
        perturbation, state = ascent.update(widened, state, params)
        return optax.tree.cast_like(perturbation, updates), state

    return optax.GradientTransformation(ascent.init, update_fn)
