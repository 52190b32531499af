"""Frozen parameters are not perturbed when a mask says so, and count in no norm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, network_loss, network_params

from zsharp_jax import asam, init_state, masked_ascent, sam, sam_step, zsharp

MASK = {"hidden": True, "head": False}
ASCENTS = {"sam": sam(0.1), "asam": asam(0.1), "zsharp": zsharp(0.1, 0.5)}


def gradients():
    return jax.grad(network_loss)(network_params(), *BATCH)


@pytest.mark.parametrize("mask", [MASK, lambda params: MASK], ids=["tree", "function"])
@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
def test_what_is_masked_stays_and_the_rest_is_as_if_alone(ascent, mask):
    masked, params = masked_ascent(ascent, mask), network_params()
    found, _ = masked.update(gradients(), masked.init(params), params)
    chex.assert_trees_all_equal(found["head"], jax.tree.map(jnp.zeros_like, params["head"]))

    alone, _ = ascent.update(gradients()["hidden"], ascent.init(params["hidden"]), params["hidden"])
    chex.assert_trees_all_close(found["hidden"], alone, rtol=1e-6)


def test_leaf_by_leaf():
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, network_params())
    masked, params = masked_ascent(sam(0.1), mask), network_params()
    found, _ = masked.update(gradients(), masked.init(params), params)
    for layer in found.values():
        assert np.any(layer["kernel"] != 0) and np.all(layer["bias"] == 0)


def test_frozen_layers_neither_move_nor_are_perturbed_in_a_step():
    seen = []

    def loss_fn(params, *batch):
        jax.debug.callback(lambda head: seen.append(np.asarray(head)), params["head"]["kernel"])
        return network_loss(params, *batch)

    labels = {"hidden": "trained", "head": "frozen"}
    optimizer = optax.partition({"trained": optax.sgd(0.1), "frozen": optax.set_to_zero()}, labels)
    ascent = masked_ascent(zsharp(0.1), MASK)
    state = init_state(network_params(), optimizer, ascent)
    state, info = sam_step(loss_fn, optimizer, ascent)(state, *BATCH)
    jax.effects_barrier()
    head = network_params()["head"]
    assert len(seen) == 2  # at w and at w + ε
    for kernel in seen:
        np.testing.assert_array_equal(kernel, head["kernel"])
    chex.assert_trees_all_equal(state.params["head"], head)
    assert np.any(state.params["hidden"]["kernel"] != network_params()["hidden"]["kernel"])
    np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-5)


def test_a_mask_that_does_not_fit_is_refused():
    for mask in ({"other": True}, {"hidden": "yes", "head": False}, {"hidden": 1, "head": 0}):
        with pytest.raises(ValueError, match="`mask` must be one value, a tree of bools"):
            masked_ascent(sam(0.1), mask).init(network_params())
