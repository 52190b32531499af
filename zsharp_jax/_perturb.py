"""From the gradient at w to w + ε."""

import jax
import jax.numpy as jnp
import optax

from zsharp_jax._precision import at_least_float32


def perturbation_of(
    ascent: optax.GradientTransformation,
    gradients: optax.Updates,
    ascent_state: optax.OptState,
    params: optax.Params,
) -> tuple[optax.Updates, optax.OptState]:
    """What the ascent makes of the gradient at w, and its next state."""
    if isinstance(ascent_state, optax.MaskedState):
        raise ValueError(
            "`optax.masked` hands on the raw gradient of what it leaves out, which would be added "
            "to the weights: use `masked_ascent`, which leaves those where they are."
        )
    # JAX's gradient with respect to a complex number is the conjugate of where the loss rises.
    uphill = jax.tree.map(jnp.conj, gradients)
    return ascent.update(uphill, ascent_state, params)


def state_if_finite(
    next_state: optax.OptState, ascent_state: optax.OptState, norm: jax.Array
) -> optax.OptState:
    """The next state of the ascent where ||ε|| is finite, and else the one before.

    A single batch would spoil a running mean for good, whatever becomes of the update.
    """
    is_finite = jnp.isfinite(norm)
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), next_state, ascent_state)


def perturbed(params: optax.Params, perturbation: optax.Updates) -> optax.Params:
    """w + ε in float32 at least, for bfloat16 weights of size 1 would round a small ε away."""
    return optax.apply_updates(jax.tree.map(at_least_float32, params), perturbation)
