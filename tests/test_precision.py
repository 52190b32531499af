"""Narrow dtypes lose neither norms nor perturbations; complex parameters go uphill."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, network_loss, network_params

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zsharp,
    zsharp_reference,
)

ASCENTS = {
    "sam": sam,
    "asam": asam,
    "friendly_sam": friendly_sam,
    "zsharp": zsharp,
    "zsharp_reference": zsharp_reference,
}
MILLION = 2**20


def narrow_params(dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), network_params())


def rising(params):
    """Its gradient is the same everywhere: it rises by ρ‖g‖ if all of ε arrives."""
    return jnp.sum(params.astype(jnp.float32)) / 1024


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_small_perturbation_of_a_million_weights_does_not_round_away(dtype):
    ascent, w = sam(0.05), jnp.ones((1024, MILLION // 1024), dtype)
    ascend = jax.jit(sharp_value_and_grad(rising, ascent))
    (_, gradients), _, info = ascend(w, ascent.init(w))
    # Each weight moves by 5e-5; the next number above 1 is 8e-3 away in bfloat16.
    np.testing.assert_allclose(info.sharp_loss - info.loss, 0.05, rtol=0.02)
    assert gradients.dtype == dtype

    seen = []
    tx = sharpness_aware(optax.sgd(0.1), ascent)
    tx.update(jnp.full_like(w, 1 / 1024), tx.init(w), w, grad_fn=lambda w: seen.append(w) or w)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(seen[0], np.float64) - 1), 0.05, rtol=0.02)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ASCENTS)
def test_a_step_in_a_narrow_dtype_keeps_every_dtype_and_compiles_once(name, dtype, compilations):
    # (The 1e-8 of Adam is 0 in float16.)
    optimizer, ascent = optax.sgd(0.05, momentum=0.9), ASCENTS[name](0.1)
    step = sam_step(network_loss, optimizer, ascent)
    state = init_state(narrow_params(dtype), optimizer, ascent)
    before = jax.tree.map(lambda leaf: leaf.dtype, state)
    state, first = step(state, *BATCH)
    compiled = len(compilations)
    for _ in range(3):
        state, info = step(state, *BATCH)
    assert len(compilations) == compiled
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == before
    assert info.gradient_norm.dtype == info.perturbation_norm.dtype == jnp.float32
    assert info.loss < first.loss


@pytest.mark.parametrize("size", [300.0, 1e-4])
@pytest.mark.parametrize("name", ["sam", "friendly_sam", "zsharp"])
def test_float16_gradients_neither_overflow_nor_vanish(name, size):
    gradients = {"kernel": jnp.full((64, 64), size, jnp.float16).at[0, 0].multiply(2)}
    ascent = ASCENTS[name](0.05)
    perturbation, _ = ascent.update(gradients, ascent.init(gradients), gradients)
    length = np.linalg.norm(np.asarray(perturbation["kernel"], np.float64))
    np.testing.assert_allclose(length, 0.05, rtol=2e-3)


@pytest.mark.parametrize("dtype, rtol", [(jnp.float32, 1e-5), (jnp.float16, 1e-3)])
@pytest.mark.parametrize("name", ["sam", "zsharp", "zsharp_reference"])
def test_a_scaled_loss_gives_the_same_perturbation_and_a_scaled_gradient(name, dtype, rtol):
    """The scale cancels in the ascent, and the optimizer takes it out once."""
    scale = 2.0**10
    batch = [array.astype(dtype) for array in BATCH]

    def scaled_loss(params, *batch):
        return scale * network_loss(params, *batch)

    ascent = ASCENTS[name](0.1)
    states = []
    for loss_fn, optimizer in (
        (network_loss, optax.sgd(0.1)),
        (scaled_loss, optax.chain(optax.scale(1 / scale), optax.sgd(0.1))),
    ):
        state = init_state(narrow_params(dtype), optimizer, ascent)
        state, info = sam_step(loss_fn, optimizer, ascent)(state, *batch)
        assert info.loss.dtype == dtype  # in which scaled gradients overflow when squared
        states.append((state.params, info.perturbation_norm))
    chex.assert_trees_all_close(*states, rtol=rtol)


def test_complex_parameters_rise_where_the_loss_does():
    target = jnp.array([1.0 + 2.0j, -1.0j])

    def distance(w):
        return jnp.sum(jnp.abs(w - target) ** 2)

    w = jnp.array([2.0 - 1.0j, 3.0 + 0.0j])
    for ascent in (sam(0.5), friendly_sam(0.5), zsharp(0.5)):
        (loss, _), _, info = sharp_value_and_grad(distance, ascent)(w, ascent.init(w))
        expected = (np.sqrt(loss) + 0.5) ** 2  # straight away from the target
        np.testing.assert_allclose(info.sharp_loss, expected, rtol=1e-5)
        np.testing.assert_allclose(info.perturbation_norm, 0.5, rtol=1e-5)


def test_complex_tensors_are_not_filtered():
    w = jnp.ones((2, 2), jnp.complex64)
    with pytest.raises(TypeError, match="must be real floating point, got dtype complex64"):
        zsharp(0.5).update(w, zsharp(0.5).init(w))
