"""What users combine a step with: exported programs, Flax's loss scaling, JAX's debugging flags."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.dynamic_scale import DynamicScale
from problems import BATCH, network_loss, network_params

from zsharp_jax import init_state, sam, sam_step, sharpness_aware, surrogate_gap, zsharp


def test_an_exported_step_is_the_step():
    optimizer, ascent = optax.chain(surrogate_gap(), optax.adam(1e-2)), sam(0.1)
    step = jax.jit(sam_step(network_loss, optimizer, ascent))
    leaves, treedef = jax.tree.flatten(init_state(network_params(), optimizer, ascent))

    @jax.jit
    def of_leaves(*leaves):
        return jax.tree.leaves(step(jax.tree.unflatten(treedef, leaves), *BATCH))

    found = jax.export.export(of_leaves)(*leaves).call(*leaves)
    chex.assert_trees_all_close(list(found), of_leaves(*leaves), rtol=1e-6)


def test_loss_scaling_changes_no_step():
    """Both passes scaled by Flax, which takes the scale out again; an overflow is told."""
    tx, params = sharpness_aware(optax.sgd(0.1), sam(0.1)), network_params()

    def loss_fn(params):
        return network_loss(params, *BATCH)

    @jax.jit
    def update(dynamic):
        gradient_at = dynamic.value_and_grad(loss_fn)
        _, is_finite, _, gradients = gradient_at(params)
        updates, state = tx.update(
            gradients, tx.init(params), params, grad_fn=lambda params: gradient_at(params)[3]
        )
        return is_finite, updates, state.perturbation_norm

    is_finite, scaled, length = update(DynamicScale(scale=jnp.float32(2.0**15)))
    _, plain, _ = update(DynamicScale(scale=jnp.float32(1.0)))
    chex.assert_trees_all_close(scaled, plain, rtol=1e-4, atol=1e-6)
    assert is_finite
    np.testing.assert_allclose(length, 0.1, rtol=1e-5)
    is_finite, _, _ = update(DynamicScale(scale=jnp.float32(jnp.inf)))
    assert not is_finite


def test_nothing_is_nan_on_the_way_not_even_of_zero_gradients():
    with jax.debug_nans(True):
        for ascent in (sam(0.1), zsharp(0.1)):
            optimizer = optax.chain(surrogate_gap(), optax.adam(1e-2))
            state = init_state(jnp.zeros((4, 4)), optimizer, ascent)
            state, _ = sam_step(lambda w: jnp.sum(w**2), optimizer, ascent)(state)
            assert np.all(state.params == 0)
