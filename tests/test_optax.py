"""Our pieces inside Optax's wrappers, and Optax's inside ours: right, or refused with a way out."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from problems import BATCH, network_loss, network_params

from zsharp_jax import (
    friendly_sam,
    init_state,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zscore_filter,
    zsharp,
)


def gradients_at(params, batch=BATCH):
    return jax.grad(network_loss)(params, *batch)


def one_step(optimizer, ascent):
    state = init_state(network_params(), optimizer, ascent)
    return sam_step(network_loss, optimizer, ascent)(state, *BATCH)


def test_a_chain_of_the_pieces_is_zsharp():
    ascent = optax.chain(zscore_filter(0.5), sam(0.1))
    params = network_params()
    plain, _ = ascent.update(gradients_at(params), ascent.init(params), params)
    chex.assert_trees_all_close(
        plain, zsharp(0.1, 0.5).update(gradients_at(params), zsharp(0.1).init(params))[0], rtol=1e-6
    )


def test_a_masked_filter_leaves_the_other_layers_whole():
    mask = {"hidden": True, "head": False}
    masked = optax.masked(zscore_filter(0.9), mask)
    gradients = gradients_at(network_params())
    kept, _ = masked.update(gradients, masked.init(gradients))
    chex.assert_trees_all_equal(kept["head"], gradients["head"])
    assert np.count_nonzero(kept["hidden"]["kernel"]) == oracles.kept_count(48, 0.9)


def test_frozen_layers_are_not_perturbed_by_a_partitioned_ascent():
    labels = {"hidden": "trained", "head": "frozen"}
    parts = {"trained": zsharp(0.05), "frozen": optax.set_to_zero()}
    _, info = one_step(optax.partition({**parts, "trained": optax.sgd(0.1)}, labels), sam(0.05))
    np.testing.assert_allclose(info.perturbation_norm, 0.05, rtol=1e-5)

    ascent, params = optax.partition(parts, labels), network_params()
    perturbation, _ = ascent.update(gradients_at(params), ascent.init(params), params)
    chex.assert_trees_all_equal(perturbation["head"], jax.tree.map(jnp.zeros_like, params["head"]))
    length = oracles.norm(jax.tree.leaves(perturbation["hidden"]))
    np.testing.assert_allclose(length, 0.05, rtol=1e-5)


def test_an_injected_rho_can_be_set_between_steps():
    make_ascent = optax.inject_hyperparams(zsharp, static_args=("quantile", "min_ndim"))
    optimizer, ascent = optax.sgd(0.1), make_ascent(rho=0.05)
    state = init_state(network_params(), optimizer, ascent)
    step = sam_step(network_loss, optimizer, ascent)
    for rho in (0.05, 0.2, 0.0):
        state.ascent_state.hyperparams["rho"] = jnp.asarray(rho, jnp.float32)
        state, info = step(state, *BATCH)
        np.testing.assert_allclose(info.perturbation_norm, rho, rtol=1e-5)


def test_an_injected_quantile_is_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r'name "quantile" in its `static_args`'):
        optax.inject_hyperparams(zsharp)(rho=0.05).init(network_params())
    names = ("quantile", "min_ndim")
    injected = optax.inject_hyperparams(zsharp, static_args=names)(rho=0.05, stacked=0)
    with pytest.raises(ValueError, match=r'name "stacked" in its `static_args`'):
        injected.update(network_params(), injected.init(network_params()))


def test_multi_steps_inside_averages_the_sharp_gradients():
    accumulating = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2).gradient_transformation()
    optimizer, params = sharpness_aware(accumulating, sam(0.05)), network_params()
    halves = [[array[:32] for array in BATCH], [array[32:] for array in BATCH]]
    state, expected = optimizer.init(params), []
    for half in halves:
        at_half = functools.partial(gradients_at, batch=half)
        updates, state = optimizer.update(at_half(params), state, params, grad_fn=at_half)
        perturbation, _ = sam(0.05).update(at_half(params), sam(0.05).init(params))
        expected.append(at_half(optax.apply_updates(params, perturbation)))
    mean = jax.tree.map(lambda a, b: -0.1 * (a + b) / 2, *expected)
    chex.assert_trees_all_close(updates, mean, rtol=1e-4, atol=1e-7)


def kept_value():
    """Keeps the extra argument `value` as its state."""

    def update(updates, state, params=None, *, value, **extra_args):
        del state, params, extra_args
        return updates, jnp.asarray(value)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([]), update)


@pytest.mark.parametrize("way", ["itself", "gradient_transformation"])
def test_multi_steps_inside_hands_on_the_loss(way):
    optimizer = optax.MultiSteps(optax.chain(kept_value(), optax.sgd(0.1)), every_k_schedule=2)
    optimizer = optimizer if way == "itself" else optimizer.gradient_transformation()
    step = sam_step(network_loss, optimizer, sam(0.05))
    state = init_state(network_params(), optimizer, sam(0.05))
    for _ in range(2):
        state, info = step(state, *BATCH)
    np.testing.assert_allclose(state.opt_state.inner_opt_state[0], info.loss)

    tx, params = sharpness_aware(optimizer, sam(0.05)), network_params()
    state = tx.init(params)
    for value in (3.0, 4.0):
        gradients = gradients_at(params)
        _, state = tx.update(gradients, state, params, grad_fn=gradients_at, value=value)
    np.testing.assert_allclose(state.opt_state.inner_opt_state[0], 4.0)


def test_multi_steps_around_is_the_big_batch_where_grad_fn_covers_it():
    params, halves = network_params(), [[a[:32] for a in BATCH], [a[32:] for a in BATCH]]
    tx = optax.MultiSteps(sharpness_aware(optax.sgd(0.1), sam(0.05)), every_k_schedule=2)
    state = tx.init(params)
    for half in halves:
        updates, state = tx.update(gradients_at(params, half), state, params, grad_fn=gradients_at)
    expected, _ = one_step(optax.sgd(0.1), sam(0.05))
    chex.assert_trees_all_close(
        optax.apply_updates(params, updates), expected.params, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("plain_if_zero", [False, True])
def test_the_state_of_sharpness_aware_tells_both_norms_and_the_loss_at_the_perturbed_point(
    plain_if_zero,
):
    """As `sam_step` does, through wrappers; a plain step has one loss."""
    value_and_grad, params = jax.value_and_grad(network_loss), network_params()
    ascent = zsharp(periodic_rho(0.3, every=2), 0.5)
    options = {"has_value": True, "plain_if_zero": plain_if_zero}
    tx = optax.chain(sharpness_aware(optax.sgd(0.0), ascent, **options), optax.identity())
    state = tx.init(params)
    assert optax.tree.get(state, "perturbation_norm") == 0

    @jax.jit
    def update(params, state):
        loss, gradients = value_and_grad(params, *BATCH)
        grad_fn = functools.partial(value_and_grad, inputs=BATCH[0], targets=BATCH[1])
        _, state = tx.update(gradients, state, params, grad_fn=grad_fn, value=loss)
        return state

    step = sam_step(network_loss, optax.sgd(0.0), ascent)
    expected = init_state(params, optax.sgd(0.0), ascent)
    for _ in range(2):
        before, state = state, update(params, state)
        expected, info = step(expected, *BATCH)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, before)
        for name in ("gradient_norm", "perturbation_norm", "sharp_loss"):
            found = optax.tree.get(state, name)
            np.testing.assert_allclose(found, getattr(info, name), rtol=1e-5, err_msg=name)


def test_a_loss_that_is_missing_is_named():
    tx, w = sharpness_aware(optax.sgd(0.1), sam(0.05), has_value=True), jnp.ones(3)
    with pytest.raises(
        ValueError, match=r"must return `\(loss, gradients\)` with `has_value=True`"
    ):
        tx.update(w, tx.init(w), w, grad_fn=lambda w: w)
    with pytest.raises(ValueError, match=r"`has_aux=True` returns .*: leave out aux"):
        with_aux = jax.value_and_grad(lambda w: (jnp.sum(w), w), has_aux=True)
        tx.update(w, tx.init(w), w, grad_fn=with_aux)
    tx = sharpness_aware(optax.sgd(0.1), sam(0.05), has_value=True, plain_if_zero=True)
    with pytest.raises(ValueError, match="needs `value`, the loss at w"):
        tx.update(w, tx.init(w), w, grad_fn=lambda w: (jnp.sum(w), w))


def test_apply_if_finite_around_skips_a_bad_step_and_recovers():
    tx = optax.apply_if_finite(
        sharpness_aware(optax.adam(0.1), sam(0.05)), max_consecutive_errors=3
    )
    params = network_params()
    state = tx.init(params)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    updates, state = tx.update(broken, state, params, grad_fn=lambda _: broken)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(updates))
    updates, state = tx.update(gradients_at(params), state, params, grad_fn=gradients_at)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))
    assert state.last_finite.dtype == bool and state.total_notfinite == 1


def test_apply_if_finite_inside_a_step_keeps_its_bool():
    optimizer = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=3)
    state, _ = one_step(optimizer, zsharp(0.05))
    assert state.opt_state.last_finite.dtype == bool


def kept_by_sam_step(optimizer, ascent, batches):
    step, state = sam_step(network_loss, optimizer, ascent), None
    for batch in batches:
        state, _ = step(state or init_state(network_params(), optimizer, ascent), *batch)
    return state.ascent_state


def kept_by_sharpness_aware(optimizer, ascent, batches):
    tx, params = sharpness_aware(optimizer, ascent), network_params()
    state = tx.init(params)
    for batch in batches:
        grad_fn = functools.partial(gradients_at, batch=batch)
        _, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return state.ascent_state


def kept_by_sharp_value_and_grad(_, ascent, batches):
    ascend, params = sharp_value_and_grad(network_loss, ascent), network_params()
    state = ascent.init(params)
    for batch in batches:
        _, state, _ = ascend(params, state, *batch)
    return state


@pytest.mark.parametrize(
    "kept", [kept_by_sam_step, kept_by_sharpness_aware, kept_by_sharp_value_and_grad]
)
def test_a_bad_batch_does_not_spoil_what_an_ascent_keeps(kept):
    """The optimizer skips that update; a running mean would stay NaN for good."""
    guarded, bad = optax.apply_if_finite(optax.sgd(0.1), 3), [a * np.nan for a in BATCH]
    spared = kept(guarded, friendly_sam(0.1), [BATCH, bad, BATCH])
    chex.assert_trees_all_equal(spared, kept(guarded, friendly_sam(0.1), [BATCH, BATCH]))


def test_a_norm_that_overflows_does_not_spoil_what_an_ascent_keeps():
    """Every entry is finite. ||g|| is not, so ε is 0."""

    def loss_fn(w, slopes):
        return jnp.sum(slopes * w)

    ascent, w = friendly_sam(0.05), jnp.ones(3)
    ascend, tx = sharp_value_and_grad(loss_fn, ascent), sharpness_aware(optax.sgd(0.1), ascent)
    ascent_state, state = ascent.init(w), tx.init(w)
    for slopes in (jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 1e30), jnp.array([1.0, 2.0, 3.5])):
        grad_fn = functools.partial(jax.grad(loss_fn), slopes=slopes)
        _, ascent_state, info = ascend(w, ascent_state, slopes)
        _, state = tx.update(slopes, state, w, grad_fn=grad_fn)
    norms = [info.perturbation_norm, state.perturbation_norm]
    np.testing.assert_allclose(norms, 0.05, rtol=1e-5)


def test_a_line_search_gets_its_own_arguments_alone():
    def quartic(w, centre=1.0):
        return jnp.sum((w - centre) ** 4)

    tx, w = sharpness_aware(optax.lbfgs(), sam(0.01)), jnp.zeros(3)
    state = tx.init(w)
    for _ in range(30):
        loss, gradients = jax.value_and_grad(quartic)(w)
        of_search = {"value": loss, "grad": gradients, "value_fn": quartic, "centre": 1.0}
        updates, state = tx.update(gradients, state, w, grad_fn=jax.grad(quartic), **of_search)
        w = optax.apply_updates(w, updates)
    assert quartic(w) < 1e-3


def test_a_state_can_be_donated_to_a_scan_over_steps():
    tx = sharpness_aware(optax.sgd(0.1), sam(0.05))

    def step(carry, batch):
        params, state = carry
        grad_fn = functools.partial(gradients_at, batch=batch)
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (optax.apply_updates(params, updates), state), None

    epoch = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches), donate_argnums=0)
    params = jax.tree.map(jnp.array, network_params())
    batches = jax.tree.map(lambda array: jnp.stack([array] * 3), BATCH)
    (_, state), _ = epoch((params, tx.init(params)), batches)
    np.testing.assert_allclose(state.perturbation_norm, 0.05, rtol=1e-5)


def test_committed_parameters_compile_one_update(compilations):
    tx = sharpness_aware(optax.adam(0.1), sam(0.05))
    params = jax.device_put(network_params(), jax.devices()[0])
    state, update = tx.init(params), jax.jit(functools.partial(tx.update, grad_fn=gradients_at))
    _, state = update(gradients_at(params), state, params)
    before = len(compilations)
    update(gradients_at(params), state, params)
    assert len(compilations) == before


def test_the_filter_serves_optaxs_own_sam():
    ascent = optax.chain(zscore_filter(0.5), optax.contrib.normalize(), optax.sgd(0.1))
    theirs = optax.contrib.sam(optax.sgd(0.1), ascent, opaque_mode=True)
    params = network_params()
    updates, _ = theirs.update(
        gradients_at(params), theirs.init(params), params, grad_fn=lambda w, _: gradients_at(w)
    )
    # Optax subtracts an adversarial *descent* twice; ours adds the ascent.
    ours = sharpness_aware(optax.sgd(0.1), zsharp(0.1, 0.5))
    expected, _ = ours.update(gradients_at(params), ours.init(params), params, grad_fn=gradients_at)
    chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ascent", [sam(0.05), zsharp(0.05)], ids=["sam", "zsharp"])
def test_a_masked_ascent_is_refused_with_a_way_out(ascent):
    masked = optax.masked(ascent, {"hidden": True, "head": False})
    with pytest.raises(ValueError, match=r"raw gradient.*use `masked_ascent`"):
        one_step(optax.sgd(0.1), masked)
    tx, params = sharpness_aware(optax.sgd(0.1), masked), network_params()
    with pytest.raises(ValueError, match=r"raw gradient.*use `masked_ascent`"):
        tx.update(gradients_at(params), tx.init(params), params, grad_fn=gradients_at)


def test_a_masked_optimizer_is_refused_with_a_way_out():
    masked = optax.masked(optax.sgd(0.1), {"hidden": True, "head": False})
    with pytest.raises(ValueError, match=r"raw gradient.*`optax.set_to_zero\(\)`"):
        one_step(masked, sam(0.05))
    tx, params = sharpness_aware(masked, sam(0.05)), network_params()
    with pytest.raises(ValueError, match=r"raw gradient.*`optax.set_to_zero\(\)`"):
        tx.update(gradients_at(params), tx.init(params), params, grad_fn=gradients_at)


def test_a_mask_around_sharpness_aware_is_refused_with_a_way_out():
    labels = {"hidden": "trained", "head": "frozen"}
    inside = sharpness_aware(optax.sgd(0.1), sam(0.05))
    params = network_params()
    for tx in (
        optax.masked(inside, {"hidden": True, "head": False}),
        optax.partition({"trained": inside, "frozen": optax.set_to_zero()}, labels),
    ):
        with pytest.raises(ValueError, match="needs all parameters"):
            tx.update(gradients_at(params), tx.init(params), params, grad_fn=gradients_at)
