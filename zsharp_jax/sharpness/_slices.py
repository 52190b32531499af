"""Slices through the loss, to be drawn: random directions, and losses along them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._mean_gradient import LossFn
from zsharp_jax._perturb import perturbed
from zsharp_jax._precision import at_least_float32
from zsharp_jax._trees import first_difference
from zsharp_jax.sharpness._arguments import checked_key, checked_params, refuse_all_nonfinite
from zsharp_jax.sharpness._objective import Objective, checked_objective
from zsharp_jax.sharpness._vectors import gaussian, homes_of, scaled


def filter_normalized(key: jax.Array, params: optax.Params, filter_axis: int = -1) -> optax.Params:
    """A random direction in which each filter is as long as that filter of the parameters.

    A network whose weights are twice as large then gets a direction twice as long, so that pictures
    of networks can be compared.

    Args:
        key: A key of `jax.random`.
        params: The parameters: a tree of real floating-point arrays.
        filter_axis: The axis that counts the filters (output channels, units) in leaves of two axes
            or more: the last one in Flax and Haiku, 0 where kernels are laid out as in PyTorch.

    Returns:
        A tree like `params`, in float32 at least. It is 0 in leaves of fewer than two axes, such as
        biases and the scales of normalisation layers.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array, or `key` is no key.
        ValueError: If a leaf of two axes or more has no axis `filter_axis`.

    Example:
        >>> from zsharp_jax.sharpness import filter_normalized
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
        >>> direction = filter_normalized(jax.random.key(0), params)
        >>> print(jnp.linalg.norm(direction["kernel"], axis=0).round(4), direction["bias"])
        [5. 2.] [0. 0.]

    References:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    params = checked_params(params)
    noise = gaussian(checked_key(key), params, homes_of(params))

    def normalised(path, noise, weights):
        if weights.ndim < 2:
            return jnp.zeros_like(weights)
        if not -weights.ndim <= filter_axis < weights.ndim:
            raise ValueError(
                f"`filter_axis` must be an axis of each leaf of two axes or more, got "
                f"{filter_axis} for shape {weights.shape} at `{jax.tree_util.keystr(path)}`."
            )
        within = tuple(set(range(weights.ndim)) - {filter_axis % weights.ndim})
        return noise * (_norm(weights, within) / _norm(noise, within))

    return jax.tree_util.tree_map_with_path(normalised, noise, params)


def _norm(leaf: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(leaf**2, axes, keepdims=True))


def loss_along(
    loss_fn: LossFn,
    params: optax.Params,
    directions: Sequence[optax.Params],
    coefficients: jax.typing.ArrayLike,
    *inputs: Any,
    has_aux: bool = False,
    microbatches: int = 1,
    batch_argnums: int | Sequence[int] | None = None,
) -> jax.Array:
    """The losses at w + c₁ d₁ + ... + c_k d_k: on a line, a grid, or wherever you ask.

    Args:
        loss_fn: See `hessian_spectrum`.
        params: Where all coefficients are 0: a tree of real floating-point arrays.
        directions: A sequence of k trees like `params`, such as two of `filter_normalized`.
        coefficients: The points, of shape (..., k).
        *inputs: What else the loss function takes.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        microbatches: In how many parts the batch is taken, see `mean_value_and_grad`.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.

    Returns:
        The losses, of shape (...), in float32 at least. Far away some may be infinite or NaN.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array, or a direction or
            coefficient is not real.
        ValueError: If an argument is out of range, there is no direction, or one is not like
            `params`, or the batch cannot be split as asked.
        FloatingPointError: If no loss is finite.

    Example:
        >>> from zsharp_jax.sharpness import loss_along
        >>> directions = [jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])]
        >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
        >>> print(loss_along(lambda w: jnp.sum(w**2), jnp.zeros(2), directions, points))
        [0. 1. 5.]

    References:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018.
    """
    objective = checked_objective(loss_fn, has_aux, microbatches, batch_argnums)
    params = checked_params(params)
    directions = tuple(_checked_direction(params, direction) for direction in directions)
    if not directions:
        raise ValueError("`directions` must hold at least one tree like `params`, got none.")
    points = _real("coefficients", coefficients)
    if points.ndim == 0 or points.shape[-1] != len(directions):
        raise ValueError(
            f"`coefficients` must have one column for each of the {len(directions)} `directions`, "
            f"so shape (..., {len(directions)}), got {points.shape}."
        )
    losses = _losses(objective, params, directions, points, inputs)
    # Far away a loss may overflow, and the rest is still a picture.
    refuse_all_nonfinite("one loss at least", losses, "take smaller `coefficients`")
    return losses


def _checked_direction(params: optax.Params, direction: optax.Params) -> optax.Params:
    difference = first_difference(direction, params)
    if difference is not None:
        raise ValueError(
            f"each of `directions` must be a tree like `params`, but {difference}. (For one "
            "direction: `[direction]`.)"
        )
    return jax.tree.map(lambda leaf: _real("directions", leaf), direction)


def _real(name: str, leaf: Any) -> jax.Array:
    leaf = at_least_float32(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf.astype(jnp.float32)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold real numbers, got {leaf.dtype}.")
    return leaf


@functools.partial(jax.jit, static_argnums=0)
def _losses(
    objective: Objective,
    params: optax.Params,
    directions: Sequence[optax.Params],
    points: jax.Array,
    inputs: Sequence[Any],
) -> jax.Array:
    def loss_at(point):
        there = params
        for direction, coefficient in zip(directions, point, strict=True):
            there = perturbed(there, scaled(direction, coefficient))
        return objective.loss(there, *inputs)

    losses = jax.lax.map(loss_at, points.reshape(-1, points.shape[-1]))
    return losses.reshape(points.shape[:-1])
