"""Narrow dtypes lose neither norms nor perturbations; complex parameters go uphill."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ascents import ASCENTS
from problems import BATCH, network_loss, network_params

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    mix_gradients,
    sam,
    sam_step,
    scale_to_norm,
    sharp_value_and_grad,
    sharpness_aware,
    surrogate_gap,
    zsharp,
)

MILLION = 2**20


def narrow_params(dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), network_params())


def rising(params):
    """Its gradient is the same everywhere: it rises by ρ‖g‖ if all of ε arrives."""
    return jnp.sum(params.astype(jnp.float32)) / 1024


NARROW = [(jnp.bfloat16, "widened"), (jnp.bfloat16, "rounded"), (jnp.float16, "rounded")]


@pytest.mark.parametrize("dtype, narrow_weights", [*NARROW, (jnp.float32, "rounded")])
@pytest.mark.fast_for("bfloat16-widened")
def test_a_small_perturbation_of_a_million_weights_does_not_round_away(dtype, narrow_weights):
    ascent, w = sam(0.05), jnp.ones((1024, MILLION // 1024), dtype)
    ascend = jax.jit(sharp_value_and_grad(rising, ascent, narrow_weights=narrow_weights))
    (_, gradients), _, info = ascend(w, ascent.init(w))
    # Each weight moves by 5e-5; the next number above 1 is 8e-3 away in bfloat16.
    np.testing.assert_allclose(info.sharp_loss - info.loss, 0.05, rtol=0.04)
    assert gradients.dtype == dtype

    seen = []
    tx = sharpness_aware(optax.sgd(0.1), ascent, narrow_weights=narrow_weights)
    tx.update(jnp.full_like(w, 1 / 1024), tx.init(w), w, grad_fn=lambda w: seen.append(w) or w)
    moved = np.asarray(seen[0], np.float64) - 1
    np.testing.assert_allclose(moved.sum() / 1024, 0.05, rtol=0.04)
    if narrow_weights == "rounded":
        assert seen[0].dtype == dtype
        assert set(np.unique(moved)) <= {0, float(jnp.finfo(dtype).eps)} or dtype == jnp.float32


def layers_in_a_scan(params, inputs):
    """It needs the dtype that it was written for: what a scan carries must not change."""
    hidden, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), inputs, params)
    return jnp.mean((hidden.astype(jnp.float32) - 0.5) ** 2)


def test_a_loss_that_needs_narrow_weights_is_told_the_choice_and_trains_with_it():
    layers, inputs = jnp.stack([jnp.eye(6, dtype=jnp.bfloat16)] * 3), BATCH[0]
    inputs, optimizer, ascent = jnp.asarray(inputs, jnp.bfloat16), optax.sgd(0.5), sam(0.05)
    told = r'bfloat16 weights come as float32.*give `narrow_weights="rounded"`'
    state = init_state(layers, optimizer, ascent)
    with pytest.raises(TypeError, match=told):
        sam_step(layers_in_a_scan, optimizer, ascent)(state, inputs)
    tx, grad_fn = sharpness_aware(optimizer, ascent), jax.grad(layers_in_a_scan)
    with pytest.raises(TypeError, match=told):
        tx.update(layers, tx.init(layers), layers, grad_fn=lambda w: grad_fn(w, inputs))

    step = sam_step(layers_in_a_scan, optimizer, ascent, narrow_weights="rounded", donate=False)
    state, first = step(state, inputs)
    chex.assert_trees_all_equal(step(state, inputs), step(state, inputs))
    for _ in range(10):
        state, info = step(state, inputs)
    assert info.loss < first.loss and state.params.dtype == jnp.bfloat16
    np.testing.assert_allclose(info.perturbation_norm, 0.05, rtol=1e-2)
    with pytest.raises(ValueError, match='`narrow_weights` must be "widened" or "rounded", got'):
        sam_step(layers_in_a_scan, optimizer, ascent, narrow_weights="float32")


def test_an_error_that_has_nothing_to_do_with_narrow_weights_comes_through():
    params, optimizer, ascent = narrow_params(jnp.bfloat16), optax.sgd(0.1), sam(0.05)
    state = init_state(params, optimizer, ascent, one_pass=True)
    step = sam_step(network_loss, optimizer, ascent, one_pass=True, microbatches=3)
    with pytest.raises(ValueError, match="`microbatches` must divide the batch"):
        step(state, *BATCH)


def test_a_step_through_a_zero_gradient_can_be_differentiated():
    """A padded task has a weight of 0."""

    def task(w, weight):
        return weight * jnp.sum(w["trained"] ** 2 + 0 * w["unused"])

    def outer(start, weight):
        w = {"trained": start, "unused": start}
        (_, gradients), _, _ = sharp_value_and_grad(task, sam(0.05))(w, sam(0.05).init(w), weight)
        return jnp.sum((start - 0.1 * gradients["trained"] - 1) ** 2)

    np.testing.assert_array_equal(jax.grad(outer)(jnp.zeros(2), 0.0), [-2, -2])
    for ascent in (sam(0.05), scale_to_norm(0.05, scope="layer"), asam(0.05)):
        slope = jax.grad(lambda w, a=ascent: jnp.sum(a.update(w, a.init(w), w)[0]["a"]))
        found = slope({"a": jnp.ones(2), "b": jnp.zeros(2)})
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ASCENTS)
@pytest.mark.fast_for("zsharp-*")
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


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.fast_for("bfloat16")
def test_a_step_mixes_no_dtypes_by_itself(dtype):
    """Whoever has JAX refuse to mix them can take our steps as they take Optax's."""

    def loss_fn(params, inputs, targets):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return network_loss(wide, inputs, targets)

    optimizer, ascent, params = optax.sgd(0.1, momentum=0.9), sam(0.1), narrow_params(dtype)
    tx = sharpness_aware(optimizer, ascent)
    options = {"microbatches": 2, "plain_if_zero": True, "skip_nonfinite": True}
    with jax.numpy_dtype_promotion("strict"):
        state = init_state(params, optimizer, ascent)
        jax.eval_shape(sam_step(loss_fn, optimizer, ascent, **options), state, *BATCH)
        jax.eval_shape(sam_step(loss_fn, optimizer, ascent, groups=2), state, *BATCH)
        gradients = jax.grad(loss_fn)(params, *BATCH)
        jax.eval_shape(
            lambda g: tx.update(g, tx.init(params), params, grad_fn=lambda w: w), gradients
        )


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
@pytest.mark.fast_for("zsharp-float32*", "zsharp_reference-float16*")
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


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.chain(surrogate_gap(), optax.sgd(0.1)),
        optax.contrib.split_real_and_imaginary(optax.sgd(0.1)),
    ],
    ids=["sgd", "link", "split"],
)
def test_a_step_moves_complex_parameters_downhill(optimizer):
    target, ascent = jnp.array([1.0 + 2.0j, -1.0j]), sam(0.05)
    step = sam_step(lambda w: jnp.sum(jnp.abs(w - target) ** 2), optimizer, ascent)
    state = init_state(jnp.array([2.0 - 1.0j, 3.0 + 0.0j]), optimizer, ascent)
    for _ in range(60):
        state, _ = step(state)
    np.testing.assert_allclose(state.params, target, atol=0.02)


def test_a_loop_conjugates_complex_gradients_behind_the_links():
    target = jnp.array([1.0 + 2.0j, -1.0j])
    conjugate = optax.stateless(lambda gradients, _: jax.tree.map(jnp.conj, gradients))
    optimizer = optax.chain(mix_gradients(0.3), conjugate, optax.sgd(0.1))
    tx, w = sharpness_aware(optimizer, sam(0.05)), jnp.array([2.0 - 1.0j, 3.0 + 0.0j])
    grad_fn, state = jax.grad(lambda w: jnp.sum(jnp.abs(w - target) ** 2)), tx.init(w)
    for _ in range(60):
        updates, state = tx.update(grad_fn(w), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, target, atol=0.02)


def test_complex_tensors_are_not_filtered():
    w = jnp.ones((2, 2), jnp.complex64)
    with pytest.raises(TypeError, match="must be real floating point, got dtype complex64"):
        zsharp(0.5).update(w, zsharp(0.5).init(w))
