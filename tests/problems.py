"""Small smooth problems to train on, shared by the tests of the step."""

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(64, 6)).astype(np.float32)
TARGETS = RNG.normal(size=(64, 3)).astype(np.float32)
BATCH = (INPUTS, TARGETS)


def network_params():
    """A network of two dense layers; each call gives arrays of its own."""
    rng = np.random.default_rng(1)
    return {
        "hidden": {
            "kernel": jnp.asarray(rng.normal(size=(6, 8)), jnp.float32),
            "bias": jnp.ones(8),
        },
        "head": {"kernel": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), "bias": jnp.zeros(3)},
    }


def network_loss(params, inputs, targets):
    """Smooth, so that rounding does not flip an activation on another number of devices."""
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    outputs = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
    return jnp.mean((outputs - targets) ** 2)


def moving_statistics_loss(params, statistics, inputs, targets):
    """The same with statistics that move at each evaluation by what the parameters are."""
    moved = 0.9 * statistics + 0.1 * jnp.mean(jnp.abs(params["hidden"]["kernel"]))
    return network_loss(params, inputs, targets), moved


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
