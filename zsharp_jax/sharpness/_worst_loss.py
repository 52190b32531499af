"""The highest loss that a search finds within the ball of an ascent."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._batch import in_groups
from zsharp_jax._checks import check_is_ascent, checked_count
from zsharp_jax._mean_gradient import LossFn
from zsharp_jax._norm import tree_norm
from zsharp_jax._perturb import perturbation_of, perturbed
from zsharp_jax._roles import check_ascent
from zsharp_jax.sharpness._arguments import (
    checked_params,
    refuse_nonfinite,
    refuse_nonfinite_loss,
)
from zsharp_jax.sharpness._objective import Objective, checked_objective
from zsharp_jax.sharpness._vectors import Homes, gaussian, homes_of, scaled


def worst_loss(
    loss_fn: LossFn,
    params: optax.Params,
    *inputs: Any,
    ascent: optax.GradientTransformation,
    steps: int = 20,
    groups: int = 1,
    has_aux: bool = False,
    microbatches: int = 1,
    batch_argnums: int | Sequence[int] | None = None,
) -> jax.Array:
    """The highest loss that a search finds within the ball of an ascent.

    For `sam(rho)` the ball holds all ε with ||ε|| <= rho; for `asam(rho)` it is stretched along the
    weights; `zsharp(rho)` searches along the entries that its filter keeps.

    Each step goes straight from the current point towards the ascent's perturbation for the
    gradient there (Frank-Wolfe's method). So it stays within the ball without any projection. Its
    first step finds the loss at w + ε of a training step. A step costs one gradient, and three
    copies of the parameters in float32 are kept.

    Args:
        loss_fn: See `hessian_spectrum`.
        params: The middle of the ball: a tree of real floating-point arrays.
        *inputs: What else the loss function takes.
        ascent: A transformation from a gradient to a perturbation, such as `sam(0.05)`. It always
            starts anew: a schedule for rho counts as 0 steps, and running means are empty. Make it
            once and pass the same one to each call, or each call compiles.
        steps: How many steps, at least 1.
        groups: Into how many groups of equal size the batch is split, each with a ball of its own:
            worst-case m-sharpness. The result is the mean over the groups, which are taken one
            after the other.
        has_aux: Whether `loss_fn` returns `(loss, aux)`.
        microbatches: In how many parts the batch, or each group, is taken, see
            `mean_value_and_grad`.
        batch_argnums: Which arguments of `loss_fn` hold the batch, see `mean_value_and_grad`.

    Returns:
        The loss, a scalar in float32 at least, never below the one at `params`. The true maximum
        may be higher.

    Raises:
        TypeError: If a leaf of `params` is not a real floating-point array.
        ValueError: If an argument is out of range, or the batch cannot be split evenly.
        FloatingPointError: If a loss, or the norm of a gradient, on the way is not finite.

    Example:
        >>> from zsharp_jax.sharpness import worst_loss
        >>> def loss_fn(w):
        ...     return jnp.sum(jnp.array([1.0, 2.0, 4.0]) * w**2) / 2
        >>> print(worst_loss(loss_fn, jnp.zeros(3), ascent=sam(rho=1.0)).round(4))
        2.0

    References:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR
        2021, eq. 1 and section 4.1 (m-sharpness).
        Jaggi, Revisiting Frank-Wolfe: Projection-Free Sparse Convex Optimization, ICML 2013.
    """
    objective = checked_objective(loss_fn, has_aux, microbatches, batch_argnums)
    params = checked_params(params)
    check_is_ascent(ascent)
    check_ascent(ascent, params)
    checked_count("steps", steps)
    checked_count("groups", groups)
    search = _search(
        objective, ascent, params, inputs, steps=steps, groups=groups, homes=homes_of(params)
    )
    refuse_nonfinite_loss(search.clean)
    refuse_nonfinite("the loss within the ball", search.sum_of_losses, "take a smaller rho")
    way_out = "multiply the loss by a small number, or look in it for what has no derivative"
    refuse_nonfinite("the norm of a gradient within the ball", search.sum_of_norms, way_out)
    return search.highest


class _Losses(NamedTuple):
    """The loss at w and the highest one.

    The sums are finite only if every loss on the way is, and every ||g|| that was followed.
    """

    clean: jax.Array
    highest: jax.Array
    sum_of_losses: jax.Array
    sum_of_norms: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("steps", "groups", "homes"))
def _search(
    objective: Objective,
    ascent: optax.GradientTransformation,
    params: optax.Params,
    inputs: Sequence[Any],
    *,
    steps: int,
    groups: int,
    homes: Homes,
) -> _Losses:
    climb = functools.partial(_climb, objective, ascent, params, steps=steps, homes=homes)
    if groups == 1:
        return climb(inputs)
    parts, joined = in_groups(inputs, objective.batch_argnums, groups, params, in_turn=True)
    # One after the other: side by side, each would keep parameters of its own.
    return jax.tree.map(jnp.mean, jax.lax.map(lambda part: climb(joined(part)), parts))


def _climb(
    objective: Objective,
    ascent: optax.GradientTransformation,
    params: optax.Params,
    inputs: Sequence[Any],
    *,
    steps: int,
    homes: Homes,
) -> _Losses:
    ascent_state = ascent.init(params)

    def aim_of(gradients):
        return perturbation_of(ascent, gradients, ascent_state, params)[0]

    def try_one(carry, _):
        here, highest, aim, share = carry
        there = optax.tree.add(scaled(here, 1 - share), scaled(aim, share))
        loss, gradients = objective.value_and_grad(perturbed(params, there), *inputs)

        rises = loss > highest
        here, aim = jax.tree.map(
            functools.partial(jnp.where, rises), (there, aim_of(gradients)), (here, aim)
        )
        share = jnp.where(rises, jnp.minimum(1, 2 * share), share / 2)
        followed = jnp.where(rises, tree_norm(gradients), 0)
        return (here, jnp.where(rises, loss, highest), aim, share), (loss, followed)

    clean, gradients = objective.value_and_grad(params, *inputs)
    aim = aim_of(gradients)
    # At a stationary point a gradient shows no way up, and any other direction may.
    norm = tree_norm(gradients)
    aim = jax.lax.cond(
        norm == 0,
        lambda: aim_of(gaussian(jax.random.key(0), params, homes)),
        lambda: aim,
    )
    start = jax.tree.map(jnp.zeros_like, params), clean, aim, jnp.ones_like(clean)
    (_, highest, _, _), (losses, norms) = jax.lax.scan(try_one, start, length=steps)
    return _Losses(clean, highest, jnp.sum(losses), norm + jnp.sum(norms))
