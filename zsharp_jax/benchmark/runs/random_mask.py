"""A random mask in place of the filter's: what tells whether it matters which entries are kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import zscore_filter


class KeepAtRandomState(NamedTuple):
    """What one ascent hands to the next.

    Attributes:
        key: The PRNG key of the next mask.
    """

    key: jax.Array


def keep_at_random(quantile: float) -> optax.GradientTransformation:
    """Keeps as many entries of each tensor as `zscore_filter` does, drawn anew at each step.

    What `zscore_filter` keeps of noise is a random choice of just that size. The first key comes
    from the initial weights, so that each seed has masks of its own: from their bits, whose sum
    does not depend on the order in which they are added.
    """
    outstanding = zscore_filter(quantile)

    def init_fn(params):
        bits = [jax.lax.bitcast_convert_type(leaf, jnp.uint32) for leaf in jax.tree.leaves(params)]
        total = sum(jnp.sum(each, dtype=jnp.uint32) for each in bits)
        return KeepAtRandomState(jax.random.key(total))

    def update_fn(updates, state, params=None):
        del params
        next_key, noise_key = jax.random.split(state.key)
        noise = optax.tree.random_like(noise_key, updates, jax.random.normal)
        chosen, _ = outstanding.update(noise, optax.EmptyState())

        def keep(gradient, chosen):
            is_kept = (chosen != 0) | (gradient.ndim < 2)
            return jnp.where(is_kept, gradient, jnp.zeros_like(gradient))

        return jax.tree.map(keep, updates, chosen), KeepAtRandomState(next_key)

    return optax.GradientTransformation(init_fn, update_fn)
