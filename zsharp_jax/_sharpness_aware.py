"""An Optax optimizer that takes its gradient at w + ε, for loops that call `optimizer.update`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._checks import refuse_masked_optimizer
from zsharp_jax._perturb import perturbation_of, perturbed, state_if_finite
from zsharp_jax._precision import tree_norm


class SharpnessAwareState(NamedTuple):
    """What one update of `sharpness_aware` hands to the next.

    Attributes:
        opt_state: The state of the optimizer.
        ascent_state: The state of the ascent.
    """

    opt_state: optax.OptState
    ascent_state: optax.OptState


def sharpness_aware(
    optimizer: optax.GradientTransformation,
    ascent: optax.GradientTransformation,
    *,
    plain_if_zero: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer take its gradient at w + ε instead of at w.

    Its update is called with the gradient at w as always, and once calls back for the gradient at
    w + ε: `updates, state = tx.update(gradients, state, params, grad_fn=grad_fn)`. The updates
    apply to w.

    Args:
        optimizer: The optimizer of the descent.
        ascent: A transformation from the gradient at w to the perturbation ε, such as
            `zsharp(0.05)`.
        plain_if_zero: Whether `grad_fn` is left uncalled where ε is zero, by `jax.lax.cond`. For a
            rho that is 0 at times, see `periodic_rho`.

    Returns:
        A transformation whose update needs `params` and `grad_fn`, a function from parameters to
        gradients on the same batch, such as `jax.grad(loss_fn)`; for a mean over micro-batches
        (`optax.MultiSteps`) it must cover all of them, see `mean_value_and_grad`. It is called with
        parameters in float32 at least. Any other extra argument reaches `optimizer`.

    Raises:
        ValueError: On update, if `params` or `grad_fn` is missing, if `grad_fn` does not return a
            tree like the gradients, or where `optax.masked` stands around this, the optimizer or
            the ascent.

    Example:
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2
        >>> tx = sharpness_aware(optax.sgd(0.1), sam(rho=0.5))
        >>> w = jnp.array([3.0, 4.0])
        >>> state = tx.init(w)
        >>> updates, state = tx.update(jax.grad(loss_fn)(w), state, w, grad_fn=jax.grad(loss_fn))
        >>> print(optax.apply_updates(w, updates))
        [2.67 3.56]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init_fn(params):
        return SharpnessAwareState(optimizer.init(params), ascent.init(params))

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        if params is None or grad_fn is None:
            missing = "params" if params is None else "grad_fn"
            raise ValueError(
                f"`sharpness_aware` needs `{missing}`: "
                "call `update(gradients, state, params, grad_fn=grad_fn)`. A loop that cannot pass "
                "it, such as Flax's `TrainState.apply_gradients`, takes `sharp_value_and_grad`."
            )
        _refuse_masked_params(params)
        refuse_masked_optimizer(state.opt_state)
        perturbation, ascent_state = perturbation_of(ascent, updates, state.ascent_state, params)
        norm = tree_norm(perturbation)
        ascent_state = state_if_finite(ascent_state, state.ascent_state, norm)

        def sharp_pass(perturbation):
            sharp_gradients = grad_fn(perturbed(params, perturbation))
            _check_like_gradients(sharp_gradients, updates)
            return optax.tree.cast_like(sharp_gradients, updates)

        if plain_if_zero:
            sharp_gradients = jax.lax.cond(norm == 0, lambda _: updates, sharp_pass, perturbation)
        else:
            sharp_gradients = sharp_pass(perturbation)
        updates, opt_state = optimizer.update(
            sharp_gradients, state.opt_state, params, **extra_args
        )
        return updates, SharpnessAwareState(opt_state, ascent_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _refuse_masked_params(params: optax.Params) -> None:
    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "`sharpness_aware` needs all parameters, for `grad_fn` is called with them: put "
            "`optax.partition` inside, around the optimizer, and `masked_ascent` around the ascent."
        )


def _check_like_gradients(sharp_gradients: Any, gradients: optax.Updates) -> None:
    got, wanted = jax.tree.structure(sharp_gradients), jax.tree.structure(gradients)
    if got != wanted:
        raise ValueError(
            "`grad_fn` must return gradients alone, a tree like the gradients at w "
            f"({wanted}), got {got}; for `jax.value_and_grad` see `sharp_value_and_grad`."
        )
    for found, gradient in zip(
        jax.tree.leaves(sharp_gradients), jax.tree.leaves(gradients), strict=True
    ):
        if jnp.shape(found) != jnp.shape(gradient):
            raise ValueError(
                "`grad_fn` must return arrays of the shapes of the gradients at w, "
                f"got {jnp.shape(found)} for {jnp.shape(gradient)}."
            )
