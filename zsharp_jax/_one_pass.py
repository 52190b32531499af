"""A step of one pass: ε comes from the gradient that the step before took at w + ε."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._info import SamInfo, loss_and_aux
from zsharp_jax._mean_gradient import ValueAndGrad
from zsharp_jax._norm import tree_norm
from zsharp_jax._perturb import NarrowWeights, at_perturbed, perturbation_of, state_if_finite
from zsharp_jax._refusals import check_params
from zsharp_jax._roles import check_ascent


class OnePassState(NamedTuple):
    """What the ascent of one step hands to that of the next.

    Attributes:
        ascent_state: The state of the ascent.
        gradients: The last gradient at w + ε that was finite, of the dtypes of the parameters.
        is_first: Whether there is none yet, a bool scalar.
    """

    ascent_state: optax.OptState
    gradients: optax.Updates
    is_first: jax.Array


def one_pass_state(ascent: optax.GradientTransformation, params: optax.Params) -> OnePassState:
    """The state before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return OnePassState(ascent.init(params), zeros, jnp.asarray(True))


def _perturbation_from(
    ascent: optax.GradientTransformation, state: OnePassState, params: optax.Params
) -> tuple[optax.Updates, optax.OptState]:
    """ε from the gradient of the step before, 0 in the first step, and the next ascent state."""
    if not isinstance(state, OnePassState):
        raise ValueError(
            "with `one_pass` the state holds the gradient of the step before, got a "
            f"`{type(state).__name__}`: make it by `init_state(..., one_pass=True)`, or by "
            "`ascend.init(params)` of `sharp_value_and_grad`."
        )
    perturbation, next_state = perturbation_of(ascent, state.gradients, state.ascent_state, params)
    perturbation = jax.tree.map(lambda leaf: jnp.where(state.is_first, 0, leaf), perturbation)
    next_state = optax.tree.where(state.is_first, state.ascent_state, next_state)
    return perturbation, next_state


def refuse_state_of_one_pass(ascent_state: optax.OptState) -> None:
    """Refuses it in a step of two passes, which has no use for the gradient in it."""
    if isinstance(ascent_state, OnePassState):
        raise ValueError(
            "this state is one of `one_pass=True`: give that to the step too, or take "
            "`state.ascent_state.ascent_state` of a step in two passes."
        )


def at_old_perturbation(
    value_and_grad: ValueAndGrad,
    ascent: optax.GradientTransformation,
    has_aux: bool,
    narrow_weights: NarrowWeights,
    keep_perturbation: bool,
) -> Callable[..., tuple[tuple[Any, optax.Updates], OnePassState, SamInfo]]:
    """`ascend` of `sharp_value_and_grad` in one pass."""

    def ascend(params, state, *inputs):
        check_params(params)
        check_ascent(ascent, params)
        perturbation, ascent_state = _perturbation_from(ascent, state, params)
        norm = tree_norm(perturbation)
        value, gradients = at_perturbed(
            lambda point: value_and_grad(point, *inputs),
            params,
            perturbation,
            state.gradients,
            narrow_weights,
        )
        gradients = optax.tree.cast_like(gradients, state.gradients)

        gradient_norm = tree_norm(gradients)
        next_state = OnePassState(
            state_if_finite(ascent_state, state.ascent_state, norm),
            state_if_finite(gradients, state.gradients, gradient_norm),
            state.is_first & ~jnp.isfinite(gradient_norm),
        )
        loss, aux = loss_and_aux(value, has_aux)
        told = perturbation if keep_perturbation else None
        info = SamInfo(None, loss, None, norm, aux, perturbation=told)
        return (value, gradients), next_state, info

    return ascend
