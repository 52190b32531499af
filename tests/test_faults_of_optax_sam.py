"""What goes wrong with `optax.contrib.sam` (0.2.8), by name, and does not with ours.

Each docstring says what theirs does.
"""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, moving_statistics_loss, network_loss, network_params

import zsharp_jax
from zsharp_jax import (
    init_state,
    masked_ascent,
    mean_value_and_grad,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zsharp,
)

W = jnp.array([[3.0, 4.0]])


def parabola(w):
    return jnp.sum(w**2) / 2


def one_update(tx, w=W, **extra):
    grad_fn = jax.grad(parabola)
    return tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn, **extra)


def assert_finite(tree):
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def test_01_a_zero_gradient():
    """Theirs divides by the norm: NaN."""
    for ascent in (sam(0.1), zsharp(0.1)):
        updates, state = one_update(sharpness_aware(optax.adam(0.1), ascent), jnp.zeros((2, 2)))
        assert_finite((updates, state))


def test_02_a_gradient_of_zero_after_the_ascent():
    """Theirs selects by multiplying, and NaN times 0 is NaN."""
    tx = sharpness_aware(optax.adam(0.1), sam(0.1))
    updates, state = tx.update(W, tx.init(W), W, grad_fn=jnp.zeros_like)
    assert_finite((updates, state))
    # `apply_if_finite` looks at what it is given: outside at the gradient at w, inside at w + ε.
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=3)
    updates, state = guarded.update(W * jnp.nan, guarded.init(W), W, grad_fn=jax.grad(parabola))
    assert np.all(updates == 0) and state.total_notfinite == 1
    inside = sharpness_aware(optax.apply_if_finite(optax.adam(0.1), 3), sam(0.1))
    updates, state = inside.update(W, inside.init(W), W, grad_fn=lambda w: w * jnp.nan)
    assert np.all(updates == 0) and state.opt_state.total_notfinite == 1


def test_03_an_infinity_in_the_state_of_the_optimizer():
    """Theirs multiplies it by 0: NaN."""
    plateau = optax.contrib.reduce_on_plateau(patience=2)  # starts with a best loss of infinity
    _, state = one_update(
        sharpness_aware(optax.chain(optax.sgd(0.1), plateau), sam(0.1)), value=1.0
    )
    assert_finite(state)


def test_04_dtypes_of_the_state():
    """Theirs makes an int32 of a bool, which a scan refuses."""
    tx = sharpness_aware(optax.apply_if_finite(optax.sgd(0.1), 3), sam(0.1))

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(w, state, w, grad_fn=jax.grad(parabola))
        return (optax.apply_updates(w, updates), state), None

    (_, state), _ = jax.lax.scan(step, (W, tx.init(W)), None, 3)
    assert state.opt_state.last_finite.dtype == bool


def test_05_a_prng_key_in_the_state():
    """Theirs multiplies it: TypeError."""
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1))
    _, state = one_update(sharpness_aware(noisy, sam(0.1)))
    assert jnp.issubdtype(optax.tree.get(state, "rng_key").dtype, jax.dtypes.prng_key)


def test_06_one_update_is_one_step():
    """Theirs undoes every other step with `sync_period=1`."""
    tx, w = sharpness_aware(optax.sgd(0.1), sam(0.5)), W
    state, losses = tx.init(w), []
    for _ in range(6):
        updates, state = tx.update(w, state, w, grad_fn=jax.grad(parabola))
        w = optax.apply_updates(w, updates)
        losses.append(float(parabola(w)))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 2


def test_07_micro_batches():
    """Theirs in `optax.MultiSteps` descends with the gradient of the last micro-batch alone."""
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    expected, _ = sam_step(network_loss, optimizer, ascent)(
        init_state(network_params(), optimizer, ascent), *BATCH
    )
    whole = mean_value_and_grad(network_loss, microbatches=4)
    tx, params = optax.MultiSteps(sharpness_aware(optimizer, ascent), 4), network_params()
    state = tx.init(params)
    for i in range(4):
        gradients = jax.grad(network_loss)(params, *[array[i::4] for array in BATCH])
        updates, state = tx.update(
            gradients, state, params, grad_fn=lambda params: whole(params, *BATCH)[1]
        )
    found = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(found, expected.params, rtol=1e-5, atol=1e-6)


def test_08_a_schedule_of_rho_and_a_rho_that_is_set():
    """Theirs starts the schedule anew at each step, and forgets what was set."""

    def lengths(tx, state, steps):
        seen = []
        for _ in range(steps):
            _, state = tx.update(W, state, W, grad_fn=lambda w: seen.append(w - W) or w)
        return [float(jnp.linalg.norm(perturbation)) for perturbation in seen], state

    tx = sharpness_aware(optax.sgd(0.1), sam(optax.linear_schedule(0.1, 0.5, 4)))
    scheduled, _ = lengths(tx, tx.init(W), steps=4)
    np.testing.assert_allclose(scheduled, [0.1, 0.2, 0.3, 0.4], rtol=1e-5)
    tx = sharpness_aware(optax.sgd(0.1), optax.inject_hyperparams(sam)(rho=0.5))
    before, state = lengths(tx, tx.init(W), steps=2)
    state.ascent_state.hyperparams["rho"] = jnp.array(0.2)
    after, _ = lengths(tx, state, steps=2)
    np.testing.assert_allclose([*before, *after], [0.5, 0.5, 0.2, 0.2], rtol=1e-5)


def test_09_masked_and_frozen_parameters():
    """Theirs moves what `optax.masked` leaves out by the raw gradient, and perturbs the frozen."""
    mask = {"hidden": True, "head": False}
    ascent, params = masked_ascent(sam(0.1), mask), network_params()
    perturbation, _ = ascent.update(params, ascent.init(params), params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(perturbation["head"]))
    tx = sharpness_aware(optax.sgd(0.1), optax.masked(sam(0.1), mask))
    with pytest.raises(ValueError, match="use `masked_ascent`"):
        tx.update(params, tx.init(params), params, grad_fn=lambda params: params)


def test_10_extra_arguments_reach_the_optimizer():
    """Theirs raises a TypeError."""
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    _, state = one_update(sharpness_aware(optimizer, sam(0.1)), value=jnp.array(7.0))
    assert optax.tree.get(state, "best_value") == 7.0


def test_11_no_copy_of_the_parameters_and_never_the_perturbed_ones():
    """Theirs keeps a copy, evaluates both optimizers at each call, and hands out w + ε."""
    tx = sharpness_aware(optax.sgd(0.1), zsharp(0.1))
    kept = jax.tree.leaves(tx.init(network_params()))
    assert sum(leaf.size for leaf in kept) == 3  # a counter and the last two norms
    optimizer = optax.sgd(0.0)
    step = sam_step(network_loss, optimizer, sam(0.5))
    state, _ = step(init_state(network_params(), optimizer, sam(0.5)), *BATCH)
    chex.assert_trees_all_equal(state.params, network_params())


def test_12_the_state_can_be_donated():
    """Theirs keeps the very parameters in its state: the same buffer is donated twice."""
    tx = sharpness_aware(optax.adam(0.1), zsharp(0.1))

    @jax.jit
    def update(state, params):
        updates, state = tx.update(params, state, params, grad_fn=jax.grad(parabola))
        return state, optax.apply_updates(params, updates)

    donating = jax.jit(update, donate_argnums=(0, 1))
    params = jnp.ones((4, 4))
    state, params = donating(tx.init(params), params)
    state, params = donating(state, params)
    assert_finite(params)


@pytest.mark.parametrize("size", [300.0, 1e-4])
def test_13_norms_of_narrow_gradients(size):
    """Theirs overflow to a perturbation of 0, or vanish to one that is infinite."""
    gradient = jnp.full((1, 4), size, jnp.float16)
    perturbation, _ = sam(0.1).update(gradient, sam(0.1).init(gradient))
    np.testing.assert_allclose(np.linalg.norm(np.float64(perturbation)), 0.1, rtol=2e-3)
    mixed = {"a": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.ones((2, 2), jnp.float32)}
    found, _ = sam(0.1).update(mixed, sam(0.1).init(mixed))
    chex.assert_trees_all_equal_dtypes(found, mixed)


def test_14_the_radius_is_rho():
    """Theirs reaches (sync_period - 1) rho, for its ascents add up."""
    for ascent in (sam(0.1), zsharp(0.1)):
        _, _, info = sharp_value_and_grad(parabola, ascent)(W, ascent.init(W))
        np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-5)


def test_15_losses_statistics_and_keys():
    """Theirs takes gradients alone: no loss, aux or statistics, and of a (value, gradient) pair it
    makes an update without a word."""
    ascent, params = sam(0.1), network_params()
    ascend = sharp_value_and_grad(moving_statistics_loss, ascent, has_aux=True)
    (value, _), _, info = ascend(params, ascent.init(params), jnp.array(2.0), *BATCH)
    clean = moving_statistics_loss(params, jnp.array(2.0), *BATCH)
    chex.assert_trees_all_close(value, clean, rtol=1e-6)
    assert info.sharp_loss > info.loss
    with pytest.raises(ValueError, match="must return gradients alone"):
        tx = sharpness_aware(optax.sgd(0.1), ascent)
        tx.update(W, tx.init(W), W, grad_fn=jax.value_and_grad(parabola))
    with pytest.raises(ValueError, match="needs `params`"):
        tx.update(W, tx.init(W), grad_fn=jax.grad(parabola))


@pytest.mark.slow
def test_16_what_is_perturbed_together_does_not_depend_on_the_launch():
    """Theirs perturbs by device or not, as the caller has averaged the gradient or not."""
    parts = [array.reshape(8, -1, *array.shape[1:]) for array in BATCH]
    for groups in (1, 8):
        ascent, params = zsharp(0.1), network_params()
        by_device = sharp_value_and_grad(network_loss, ascent, groups=groups, axis_name="batch")
        mapped = jax.pmap(by_device, axis_name="batch", in_axes=(None, None, 0, 0))
        (_, found), _, _ = mapped(params, ascent.init(params), *parts)
        alone = sharp_value_and_grad(network_loss, ascent, groups=groups)
        (_, expected), _, _ = alone(params, ascent.init(params), *BATCH)
        first = jax.tree.map(lambda leaf: leaf[0], found)
        chex.assert_trees_all_close(first, expected, rtol=1e-4, atol=1e-6)


def test_17_variants_plain_steps_and_metrics():
    """Theirs has none."""
    for name in ("asam", "friendly_sam", "zsharp", "zsharp_reference"):
        assert "rho" in inspect.signature(getattr(zsharp_jax, name)).parameters
    optimizer, ascent = optax.sgd(0.1), sam(periodic_rho(0.1, every=2))
    step = sam_step(network_loss, optimizer, ascent, plain_if_zero=True)
    state, first = step(init_state(network_params(), optimizer, ascent), *BATCH)
    _, second = step(state, *BATCH)
    assert first.perturbation_norm > 0 == second.perturbation_norm
    assert np.isfinite(first.sharp_loss) and first.gradient_norm > 0
