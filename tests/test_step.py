"""Laws of the step, whichever way it is taken."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ascents import ASCENTS
from problems import BATCH, moving_statistics_loss, network_loss, network_params

from zsharp_jax import (
    SamInfo,
    SamState,
    friendly_sam,
    init_state,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zsharp,
)

OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(1e-2, weight_decay=1e-2),
    "clipped adam": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
}
# Each ascent and each optimizer at least once.
PAIRS = [(ascent, "adamw") for ascent in ASCENTS]
PAIRS += [("zsharp", "sgd"), ("sam", "clipped adam")]


@functools.cache
def plain_steps(optimizer, count):
    """The bare optimizer's steps."""
    params = network_params()

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(
            jax.grad(network_loss)(params, *BATCH), opt_state, params
        )
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for _ in range(count):
        params, opt_state = step(params, opt_state)
    return params


def sam_steps(optimizer, ascent, params, count):
    state, step = init_state(params, optimizer, ascent), sam_step(network_loss, optimizer, ascent)
    for _ in range(count):
        state, info = step(state, *BATCH)
    return state, info


def sharpness_aware_steps(optimizer, ascent, params, count):
    tx, gradient_at = sharpness_aware(optimizer, ascent), jax.grad(network_loss)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = tx.update(
            gradient_at(params, *BATCH),
            opt_state,
            params,
            grad_fn=lambda perturbed: gradient_at(perturbed, *BATCH),
        )
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for _ in range(count):
        params, opt_state = step(params, opt_state)
    return params


@pytest.mark.parametrize("ascent, optimizer", PAIRS)
@pytest.mark.fast_for("zsharp-adamw", "zsharp_reference-*", "sam-clipped*")
def test_without_rho_it_is_the_bare_optimizer_bit_for_bit(ascent, optimizer):
    ascent, optimizer = ASCENTS[ascent](0.0), OPTIMIZERS[optimizer]
    expected = plain_steps(optimizer, 5)
    state, info = sam_steps(optimizer, ascent, network_params(), 5)
    chex.assert_trees_all_equal(state.params, expected)
    assert info.loss == info.sharp_loss and info.perturbation_norm == 0
    found = sharpness_aware_steps(optimizer, ascent, network_params(), 5)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("name", ["asam", "zsharp"])  # with and without the parameters
def test_the_three_ways_take_the_same_step(name):
    optimizer, ascent, params = OPTIMIZERS["adamw"], ASCENTS[name](0.1), network_params()
    by_step, _ = sam_steps(optimizer, ascent, params, 3)
    by_optimizer = sharpness_aware_steps(optimizer, ascent, params, 3)
    chex.assert_trees_all_close(by_step.params, by_optimizer, rtol=1e-5, atol=1e-6)

    ascend = jax.jit(sharp_value_and_grad(network_loss, ascent))
    opt_state, ascent_state = optimizer.init(params), ascent.init(params)
    for _ in range(3):
        (_, sharp), ascent_state, _ = ascend(params, ascent_state, *BATCH)
        updates, opt_state = optimizer.update(sharp, opt_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(by_step.params, params, rtol=1e-5, atol=1e-6)


def test_the_step_is_sam_written_out():
    params, rho, rate = network_params(), 0.3, 0.1
    gradients = jax.grad(network_loss)(params, *BATCH)
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    perturbed = jax.tree.map(lambda w, g: w + rho * g / length, params, gradients)
    sharp_loss, sharp = jax.value_and_grad(network_loss)(perturbed, *BATCH)
    expected = jax.tree.map(lambda w, g: w - rate * g, params, sharp)

    state, info = sam_steps(optax.sgd(rate), sam(rho), params, 1)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.loss, network_loss(params, *BATCH), rtol=1e-6)
    np.testing.assert_allclose(info.sharp_loss, sharp_loss, rtol=1e-5)
    np.testing.assert_allclose(info.gradient_norm, length, rtol=1e-5)
    np.testing.assert_allclose(info.perturbation_norm, rho, rtol=1e-5)
    assert info.aux is None and state.step == 1
    assert info.sharp_loss > info.loss


def test_aux_is_that_of_the_clean_pass():
    params, statistics = network_params(), jnp.array(1.0)
    optimizer, ascent = optax.sgd(0.1), sam(1.0)
    state = init_state(params, optimizer, ascent)
    step = sam_step(moving_statistics_loss, optimizer, ascent, has_aux=True)
    _, clean = moving_statistics_loss(params, statistics, *BATCH)
    _, info = step(state, statistics, *BATCH)
    np.testing.assert_allclose(info.aux, clean, rtol=1e-6)

    ascend = sharp_value_and_grad(moving_statistics_loss, ascent, has_aux=True)
    (value, _), _, info = ascend(params, ascent.init(params), statistics, *BATCH)
    np.testing.assert_allclose(value[1], clean, rtol=1e-6)
    assert value[0] == info.loss and value[1] == info.aux


def test_both_passes_get_the_same_inputs():
    def noisy_loss(w, key):
        return jnp.sum(w * jax.random.normal(key, w.shape)), None

    ascend = sharp_value_and_grad(noisy_loss, sam(0.0), has_aux=True)
    _, _, info = ascend(jnp.ones(5), sam(0.0).init(jnp.ones(5)), jax.random.key(3))
    assert info.loss == info.sharp_loss


@pytest.mark.parametrize("ascent, optimizer", PAIRS)
@pytest.mark.fast_for("zsharp-adamw", "friendly_sam-*", "sam-clipped*")
def test_the_state_keeps_structure_and_dtypes_and_nothing_compiles_twice(
    ascent, optimizer, compilations
):
    chex.clear_trace_counter()
    loss_fn = chex.assert_max_traces(network_loss, n=2)  # one clean and one sharp pass
    ascent, optimizer = ASCENTS[ascent](0.05), OPTIMIZERS[optimizer]
    state = init_state(network_params(), optimizer, ascent)
    step = sam_step(loss_fn, optimizer, ascent)
    shapes = jax.eval_shape(lambda s: s, state)
    counts = []
    for _ in range(3):
        state, info = step(state, *BATCH)
        counts.append(len(compilations))
        chex.assert_trees_all_equal_shapes_and_dtypes(state, shapes)
    assert isinstance(state, SamState) and isinstance(info, SamInfo)
    assert counts[0] == counts[1] == counts[2] and state.step == 3


def test_the_state_is_donated_and_the_users_parameters_stay_whole():
    optimizer, ascent, params = optax.adam(0.1), friendly_sam(0.05), network_params()
    state, step = init_state(params, optimizer, ascent), sam_step(network_loss, optimizer, ascent)
    first = state
    state, _ = step(state, *BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_without_donation_the_state_stays_whole_and_gives_the_same_step():
    optimizer, ascent = optax.adam(0.1), friendly_sam(0.05)
    first = init_state(network_params(), optimizer, ascent)
    step = sam_step(network_loss, optimizer, ascent, donate=False)
    once, again = step(first, *BATCH), step(first, *BATCH)
    chex.assert_trees_all_equal(once, again)
    chex.assert_trees_all_equal(first, init_state(network_params(), optimizer, ascent))


def first_state(params, rate=0.1):
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
    return init_state(params, optimizer, friendly_sam(0.05))


def test_a_state_is_made_of_restored_parameters_under_jit_and_vmap():
    """What a checkpoint gives back lies on a device for good, which a fresh array does not."""
    restored = jax.device_put(network_params(), jax.devices()[0])
    expected = first_state(restored)
    chex.assert_trees_all_equal(jax.jit(lambda: first_state(restored))(), expected)
    swept = jax.vmap(lambda rate: first_state(restored, rate))(jnp.array([0.1, 0.2]))
    assert swept.opt_state.hyperparams["learning_rate"].shape == (2,)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], swept.params), restored)


def test_a_state_of_shapes_is_the_shapes_of_the_state():
    state = first_state(network_params())
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    assert first_state(shapes.params) == jax.eval_shape(first_state, shapes.params) == shapes


@pytest.mark.parametrize("options", [{"skip_nonfinite": True}, {"microbatches": 2, "groups": 2}])
def test_a_step_moves_nothing_to_or_from_the_device_by_itself(options):
    optimizer, ascent = optax.adam(0.1), zsharp(periodic_rho(0.05, every=2))
    step = sam_step(network_loss, optimizer, ascent, plain_if_zero=True, **options)
    state, batch = init_state(network_params(), optimizer, ascent), jax.device_put(BATCH)
    with jax.transfer_guard("disallow"):
        for _ in range(4):
            state, _ = step(state, *batch)


def constant(perturbation):
    return optax.stateless(lambda gradients, params: perturbation)


@pytest.mark.parametrize(
    "found, difference",
    [
        ({"w": jnp.ones((1, 3)), "b": 1.0}, r"at \['w'\] it has shape \(1, 3\), not \(3,\)"),
        ({"w": jnp.ones(3)}, r"it lacks \['b'\]"),
        ({"w": jnp.ones(3), "b": 1.0, "c": 1.0}, r"it has \['c'\], which is not there"),
        ({"w": [jnp.ones(3)], "b": 1.0}, r"at \['w'\] it is a `list`, not an array of shape"),
        ((jnp.ones(3), 1.0), "it is a `tuple`, not a `dict`"),
    ],
)
def test_a_perturbation_unlike_the_parameters_is_refused_with_the_first_difference(
    found, difference
):
    params, ascent = {"w": jnp.ones(3), "b": jnp.ones(())}, constant(found)
    loss_fn = lambda params: jnp.sum(params["w"]) * params["b"]  # noqa: E731
    with pytest.raises(ValueError, match=rf"a tree like the parameters, but {difference}"):
        sharp_value_and_grad(loss_fn, ascent)(params, ascent.init(params))
    tx = sharpness_aware(optax.sgd(0.1), ascent)
    with pytest.raises(ValueError, match=rf"a tree like the parameters, but {difference}"):
        tx.update(params, tx.init(params), params, grad_fn=jax.grad(loss_fn))


def test_lookahead_is_refused_with_a_way_out_that_works():
    lookahead, ascent = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5), sam(0.1)
    params = optax.LookaheadParams.init_synced(jnp.ones(3))
    step = sam_step(lambda params: jnp.sum(params.fast**2), lookahead, ascent)
    with pytest.raises(ValueError, match=r"at `params.fast` .* `sharp_value_and_grad`"):
        step(init_state(params, lookahead, ascent))
    ascend, state = sharp_value_and_grad(lambda w: jnp.sum(w**2), ascent), lookahead.init(params)
    (_, gradients), _, _ = ascend(params.fast, ascent.init(params.fast))
    updates, _ = lookahead.update(gradients, state, params)
    assert jnp.all(optax.apply_updates(params, updates).fast < params.fast)


def test_an_optimizer_that_keeps_the_parameters_in_its_state_can_be_donated():
    def init_fn(params):
        return {"anchor": params, "again": params}

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    keeper = optax.GradientTransformation(init_fn, update_fn)
    state, _ = sam_steps(keeper, sam(0.05), network_params(), 3)
    chex.assert_trees_all_equal(state.opt_state["anchor"], network_params())


def test_bool_integer_key_and_none_leaves_of_the_optimizer_survive():
    def init_fn(params):
        del params
        return {"flag": True, "count": 3, "key": jax.random.key(0), "none": None, "best": jnp.inf}

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: -0.1 * g, updates), {**state, "count": state["count"] + 1}

    odd = optax.GradientTransformation(init_fn, update_fn)
    state, _ = sam_steps(odd, zsharp(0.05), network_params(), 2)
    assert not init_state({}, odd, sam(0.05)).opt_state["count"].weak_type
    assert state.opt_state["flag"].dtype == bool and bool(state.opt_state["flag"])
    assert state.opt_state["count"] == 5 and state.opt_state["none"] is None
    assert state.opt_state["best"] == jnp.inf
    assert jnp.issubdtype(state.opt_state["key"].dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("name", ASCENTS)
def test_python_numbers_are_parameters_too(name, compilations):
    optimizer, ascent = optax.adam(0.1), ASCENTS[name](0.05)
    sharp_value_and_grad(lambda w: (w - 1) ** 2, ascent)(3.0, ascent.init(3.0))
    step = sam_step(lambda w: (w - 1) ** 2, optimizer, ascent)
    state = init_state(3.0, optimizer, ascent)
    state, _ = step(state)
    compiled = len(compilations)
    state, _ = step(state)
    assert len(compilations) == compiled and state.params < 3


def test_the_step_runs_inside_a_scan():
    optimizer, ascent = OPTIMIZERS["adamw"], zsharp(0.05)
    expected, _ = sam_steps(optimizer, ascent, network_params(), 4)
    step = sam_step(network_loss, optimizer, ascent)
    state = init_state(network_params(), optimizer, ascent)
    state, infos = jax.lax.scan(lambda state, _: step(state, *BATCH), state, length=4)
    chex.assert_trees_all_close(state, expected, rtol=1e-5, atol=1e-6)
    assert infos.loss.shape == (4,)


def test_the_clean_loss_reaches_the_optimizer():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    state, info = sam_steps(optimizer, sam(0.05), network_params(), 1)
    np.testing.assert_allclose(state.opt_state[1].best_value, info.loss, rtol=1e-6)


def test_other_extra_arguments_of_sharpness_aware_reach_the_optimizer():
    tx = sharpness_aware(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), sam(0.05))
    w = jnp.ones(3)
    _, state = tx.update(
        w, tx.init(w), w, grad_fn=lambda perturbed: perturbed, value=jnp.array(7.0)
    )
    assert state.opt_state[1].best_value == 7.0


@pytest.mark.parametrize("missing", ["params", "grad_fn"])
def test_sharpness_aware_names_what_is_missing(missing):
    tx, w = sharpness_aware(optax.sgd(0.1), sam(0.05)), jnp.ones(3)
    given = {"params": w, "grad_fn": lambda perturbed: perturbed}
    del given[missing]
    with pytest.raises(ValueError, match=f"`sharpness_aware` needs `{missing}`"):
        tx.update(w, tx.init(w), **given)


def test_sharpness_aware_refuses_a_grad_fn_that_returns_more_than_gradients():
    tx, w = sharpness_aware(optax.sgd(0.1), sam(0.05)), jnp.ones(3)
    with pytest.raises(ValueError, match="`grad_fn` must return gradients alone"):
        tx.update(w, tx.init(w), w, grad_fn=jax.value_and_grad(lambda v: jnp.sum(v**2)))


def test_the_gradient_at_the_perturbed_point_is_taken_once():
    calls = []

    def counted_grad(perturbed):
        calls.append(perturbed)
        return perturbed

    tx, w = sharpness_aware(optax.sgd(0.1), sam(0.5)), jnp.array([3.0, 4.0])
    tx.update(w, tx.init(w), w, grad_fn=counted_grad)
    assert len(calls) == 1
    np.testing.assert_allclose(calls[0], [3.3, 4.4], rtol=1e-6)


def test_sharpness_aware_refuses_gradients_of_another_shape():
    tx, w = sharpness_aware(optax.adam(0.1), sam(0.05)), jnp.ones((3, 3))
    with pytest.raises(ValueError, match=r"gradients alone.*has shape \(1, 3, 3\), not \(3, 3\)"):
        tx.update(w, tx.init(w), w, grad_fn=lambda perturbed: perturbed[None])
