"""Inside `pmap`, `shard_map` and `vmap`, with the axis named: the step of the whole batch."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from problems import BATCH, moving_statistics_loss, network_loss, network_params

from zsharp_jax import (
    friendly_sam,
    init_state,
    mean_value_and_grad,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    zsharp,
)

ASCENTS = {"zsharp": zsharp(0.1, 0.8), "friendly_sam": friendly_sam(0.1)}
OPTIMIZER = optax.adamw(1e-2)


def assert_close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


def spread(function, replicated, **options):
    """`function` in a `shard_map` over eight devices, with two inputs that hold the batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (*[P()] * replicated, P("data"), P("data"))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), **options))


def per_device(array):
    return array.reshape(8, -1, *array.shape[1:])


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [1, pytest.param(8, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
@pytest.mark.fast_for("zsharp-16-*", "friendly_sam-1-*")
def test_a_shard_map_takes_the_step_of_one_device(ascent, groups, check_vma):
    params, state = network_params(), ascent.init(network_params())
    ascend = sharp_value_and_grad(network_loss, ascent, groups=groups, axis_name="data")
    together = spread(ascend, replicated=2, check_vma=check_vma)
    alone = jax.jit(sharp_value_and_grad(network_loss, ascent, groups=groups))
    assert_close(together(params, state, *BATCH), alone(params, state, *BATCH))


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_step_in_microbatches_in_a_shard_map(check_vma):
    ascent = ASCENTS["zsharp"]
    options = {"has_aux": True, "batch_argnums": (2, 3), "microbatches": 2}
    step = sam_step(moving_statistics_loss, OPTIMIZER, ascent, axis_name="data", **options)
    together = spread(step, replicated=2, check_vma=check_vma)
    alone = sam_step(moving_statistics_loss, OPTIMIZER, ascent, **options)
    states = [init_state(network_params(), OPTIMIZER, ascent) for _ in range(2)]
    statistics = jnp.array(2.0)
    for _ in range(3):
        results = [
            step(state, statistics, *BATCH)
            for step, state in zip((together, alone), states, strict=True)
        ]
        states = [state for state, _ in results]
        assert_close(*results)
        statistics = results[1][1].aux


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.fast_for("16-*")
def test_plain_steps_in_a_shard_map(groups, check_vma):
    ascent = zsharp(periodic_rho(0.1, every=2, start=1))
    options = {"groups": groups, "plain_if_zero": True}
    together = sharp_value_and_grad(network_loss, ascent, axis_name="data", **options)
    together = spread(together, replicated=2, check_vma=check_vma)
    params, state = network_params(), ascent.init(network_params())
    (_, gradients), state, _ = together(params, state, *BATCH)
    assert_close(gradients, jax.grad(network_loss)(params, *BATCH))
    found = together(params, state, *BATCH)
    assert_close(
        found, jax.jit(sharp_value_and_grad(network_loss, ascent, **options))(params, state, *BATCH)
    )


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.fast_for("8")
def test_a_pmap_takes_the_step_of_one_device(groups):
    ascent = ASCENTS["zsharp"]
    together = jax.pmap(
        sam_step(network_loss, OPTIMIZER, ascent, groups=groups, axis_name="batch"),
        axis_name="batch",
        donate_argnums=0,
    )
    alone = sam_step(network_loss, OPTIMIZER, ascent, groups=groups)
    state = init_state(network_params(), OPTIMIZER, ascent)
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), state)
    for _ in range(3):
        states, infos = together(states, *map(per_device, BATCH))
        state, info = alone(state, *BATCH)
    for device in (0, 7):
        own = jax.tree.map(lambda leaf, i=device: leaf[i], (states, infos))
        assert_close(own, (state, info))


def test_a_vmap_over_parts_takes_the_step_of_the_batch():
    ascent = ASCENTS["zsharp"]
    params, state = network_params(), ascent.init(network_params())
    together = sharp_value_and_grad(network_loss, ascent, axis_name="parts")
    mapped = jax.vmap(together, in_axes=(None, None, 0, 0), axis_name="parts")
    found = jax.tree.map(lambda leaf: leaf[0], mapped(params, state, *map(per_device, BATCH)))
    assert_close(found, sharp_value_and_grad(network_loss, ascent)(params, state, *BATCH))


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_batch_over_two_axes(groups, check_vma):
    ascent, params = ASCENTS["zsharp"], network_params()
    axes = ("hosts", "devices")
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)
    specs = (P(), P(), P(axes), P(axes))
    ascend = sharp_value_and_grad(network_loss, ascent, groups=groups, axis_name=axes)
    mapped = jax.shard_map(ascend, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
    alone = sharp_value_and_grad(network_loss, ascent, groups=groups)
    found = jax.jit(mapped)(params, ascent.init(params), *BATCH)
    assert_close(found, jax.jit(alone)(params, ascent.init(params), *BATCH))


def test_microbatches_of_each_device_by_itself():
    """Without an axis named, a `shard_map` that keeps account of what varies runs them too."""
    in_turn = mean_value_and_grad(network_loss, microbatches=2)

    def mean(params, *batch):
        own = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
        return jax.lax.pmean(in_turn(own, *batch), "data")

    found = spread(mean, replicated=1)(network_params(), *BATCH)
    assert_close(found, jax.value_and_grad(network_loss)(network_params(), *BATCH))


def test_groups_that_do_not_fit_the_devices_are_refused():
    ascend = sharp_value_and_grad(network_loss, zsharp(0.1), groups=4, axis_name="batch")
    params = network_params()
    mapped = jax.pmap(ascend, axis_name="batch", in_axes=(None, None, 0, 0))
    with pytest.raises(ValueError, match=r"`groups` must be 1 or a multiple of the 8 devices"):
        mapped(params, zsharp(0.1).init(params), *map(per_device, BATCH))


def test_counters_stay_what_they_are_and_statistics_are_averaged():
    def loss_fn(w, counter, inputs):
        return jnp.mean(inputs * w), (counter + 1, jnp.mean(inputs))

    value_and_grad = mean_value_and_grad(loss_fn, True, axis_name="batch")
    mapped = jax.pmap(value_and_grad, axis_name="batch", in_axes=(None, None, 0))
    (_, (counter, mean)), _ = mapped(jnp.array(1.0), jnp.array(3), np.arange(16.0).reshape(8, 2))
    assert np.all(counter == 4) and np.all(mean == 7.5)


@pytest.mark.parametrize("groups", [1, pytest.param(8, marks=pytest.mark.slow), 16])
def test_what_an_ascent_keeps_is_the_same_on_all_devices_where_one_is_not_finite(groups):
    ascent, params = friendly_sam(0.1), network_params()
    ascend = sharp_value_and_grad(
        network_loss, ascent, groups=groups, axis_name="data", batch_argnums=(1, 2)
    )
    mapped = jax.pmap(ascend, "data", in_axes=(None, None, 0, 0))
    batch = [per_device(array) for array in BATCH]
    _, state, _ = mapped(params, ascent.init(params), *batch)
    state = jax.tree.map(lambda leaf: leaf[0], state)
    bad = [batch[0].copy(), batch[1]]
    bad[0][3, 0] = np.nan
    _, kept, info = mapped(params, state, *bad)
    assert not np.any(np.isfinite(info.perturbation_norm))
    everywhere = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (8, *leaf.shape)), state)
    chex.assert_trees_all_equal(jax.device_get(kept), jax.device_get(everywhere))


def test_a_vmap_over_batches_warns_of_no_memory_that_it_cannot_take_over():
    step = sam_step(lambda w, x: jnp.sum((w - x) ** 2), optax.sgd(0.1), sam(0.1))
    state, batches = (
        init_state(jnp.ones(3), optax.sgd(0.1), sam(0.1)),
        jnp.ones((2, 3)).at[0].set(0),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states, _ = jax.vmap(step, in_axes=(None, 0))(state, batches)
    np.testing.assert_allclose(states.params[0], step(state, batches[0])[0].params)
