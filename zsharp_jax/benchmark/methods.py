"""The methods that are compared: what each perturbs the weights with.

Beside the paper's there are those that take its two claims apart. The authors' code filters each
tensor and brings it to rho by itself, so its perturbation is sqrt(K) times as long as SAM's for K
tensors; which of the two earns the gain, these tell:

    sam_matched      no filter, one norm, but as long as zsharp_reference's
    sam_layerwise    no filter, every tensor brought to rho by itself
    zsharp_matched   filter, one norm, as long as zsharp_reference's
    zsharp_global    filter by one percentile over all tensors, the literal eq. 3
    zsharp_random    a random mask that keeps as many entries of each tensor
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import (
    asam,
    friendly_sam,
    sam,
    scale_to_norm,
    zscore_filter,
    zsharp,
    zsharp_reference,
)

Ascent = Callable[[jax.Array, float, int, float], optax.GradientTransformation]

ETA = 0.01  # the default of asam, and the authors'

# Each makes the ascent of a run from rho, which may be traced, Q_p, K, the number of tensors with
# two axes or more, and asam's eta; None is the bare optimizer, which takes one pass a step.
METHODS: dict[str, Ascent | None] = {
    "adamw": None,
    "sam": lambda rho, q, k, eta: sam(rho),
    "asam": lambda rho, q, k, eta: asam(rho, eta),
    "friendly_sam": lambda rho, q, k, eta: friendly_sam(rho),
    "zsharp": lambda rho, q, k, eta: zsharp(rho, q),
    "zsharp_reference": lambda rho, q, k, eta: zsharp_reference(rho, q),
    "sam_matched": lambda rho, q, k, eta: sam(rho * math.sqrt(k)),
    "sam_layerwise": lambda rho, q, k, eta: scale_to_norm(rho, scope="layer"),
    "zsharp_matched": lambda rho, q, k, eta: zsharp(rho * math.sqrt(k), q),
    "zsharp_global": lambda rho, q, k, eta: zsharp(rho, q, percentile_scope="global"),
    "zsharp_random": lambda rho, q, k, eta: optax.chain(keep_at_random(q), scale_to_norm(rho)),
}


def filtered_tensors(params: Any) -> int:
    """K: how many tensors have two axes or more."""
    return sum(leaf.ndim > 1 for leaf in jax.tree.leaves(params))


class KeepAtRandomState(NamedTuple):
    """What one ascent hands to the next.

    Attributes:
        key: The PRNG key of the next mask.
    """

    key: jax.Array


def keep_at_random(quantile: float) -> optax.GradientTransformation:
    """Keeps as many entries of each tensor as `zscore_filter` does, drawn anew at each step.

    What `zscore_filter` keeps of noise is a random choice of just that size. The first key comes
    from the initial weights, so that each seed has masks of its own.
    """
    outstanding = zscore_filter(quantile)

    def init_fn(params):
        total = sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(params))
        return KeepAtRandomState(jax.random.key(jax.lax.bitcast_convert_type(total, jnp.uint32)))

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
