"""Eight devices take the step that one takes, and never gather a tensor to filter it."""

import contextlib
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import BATCH, network_loss, network_params

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    sam,
    sam_step,
    zscore_filter,
    zsharp,
    zsharp_reference,
)

ASCENTS = {
    "sam": sam(0.1),
    "asam": asam(0.1),
    "friendly_sam": friendly_sam(0.1),
    "zsharp": zsharp(0.1, 0.8),
    "zsharp global": zsharp(0.1, 0.8, percentile_scope="global"),
    "zsharp_reference": zsharp_reference(0.1, 0.8),
}
OPTIMIZER = optax.adamw(1e-2)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def fully_sharded(mesh, params):
    """Every leaf is split along its first axis of a length that eight divides."""

    def place(leaf):
        axes = [axis for axis, length in enumerate(leaf.shape) if length % 8 == 0]
        spec = P(*[None] * axes[0], "data") if axes else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, params)


def replicated(mesh, params):
    return jax.device_put(params, NamedSharding(mesh, P()))


def sharded_on_two_axes(mesh, params):
    """Kernels are split along both axes of a mesh of four by two, as far as they can be."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def place(leaf):
        names = zip(("data", "model"), (4, 2), leaf.shape, strict=False)
        spec = P(*[name if length % size == 0 else None for name, size, length in names])
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, params)


def assert_shardings(tree, shardings):
    def assert_sharding(leaf, expected):
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)

    jax.tree.map(assert_sharding, tree, shardings)


@pytest.mark.parametrize("place", [slow(replicated), fully_sharded, slow(sharded_on_two_axes)])
@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
@pytest.mark.fast_for("zsharp-*", "friendly_sam-*")
def test_many_devices_take_the_same_step_as_one(mesh, ascent, place):
    alone = init_state(network_params(), OPTIMIZER, ascent)
    together = init_state(place(mesh, network_params()), OPTIMIZER, ascent)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, together)
    split_batch = jax.device_put(BATCH, NamedSharding(together.step.sharding.mesh, P("data")))
    step, step_together = (sam_step(network_loss, OPTIMIZER, ascent) for _ in range(2))

    for _ in range(3):
        alone, info_alone = step(alone, *BATCH)
        together, info_together = step_together(together, *split_batch)
        chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(info_together, info_alone, rtol=1e-5)

    assert_shardings(together, shardings)


@pytest.mark.parametrize("optimizer", [optax.adafactor(1e-2, min_dim_size_to_factor=4), OPTIMIZER])
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.fast_for("True-optimizer0")
def test_no_optimizer_moves_on_a_mesh_or_compiles_twice(mesh, compilations, optimizer, jitted):
    ascent = zsharp(0.1)
    start = jax.jit(init_state, static_argnums=(1, 2)) if jitted else init_state
    state = start(fully_sharded(mesh, network_params()), optimizer, ascent)
    step = sam_step(network_loss, optimizer, ascent)
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    counts = [len(compilations)]
    for _ in range(3):
        before = jax.tree.map(lambda leaf: leaf.sharding, state)
        state, _ = step(state, *batch)
        counts.append(len(compilations))
        assert_shardings(state, before)
    assert counts[0] < counts[1] == counts[2] == counts[3]


def test_what_was_set_to_a_number_moves_nothing_else(mesh):
    optimizer = optax.adafactor(1e-2, min_dim_size_to_factor=4)
    ascent = optax.inject_hyperparams(sam)(rho=0.1)
    state = init_state(fully_sharded(mesh, network_params()), optimizer, ascent)
    state.ascent_state.hyperparams["rho"] = 0.2
    before = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    state, info = sam_step(network_loss, optimizer, ascent)(state, *batch)
    assert_shardings(state.opt_state, before)
    np.testing.assert_allclose(info.perturbation_norm, 0.2, rtol=1e-5)


@pytest.mark.parametrize("options", [{"microbatches": 4}, {"groups": 8}, {"groups": 4}])
@pytest.mark.fast_for("options2")
def test_a_batch_in_parts_takes_the_same_step_on_a_mesh(mesh, options):
    ascent, split = ASCENTS["zsharp"], NamedSharding(mesh, P("data"))
    step, step_together = (sam_step(network_loss, OPTIMIZER, ascent, **options) for _ in range(2))
    alone = step(init_state(network_params(), OPTIMIZER, ascent), *BATCH)
    together = init_state(replicated(mesh, network_params()), OPTIMIZER, ascent)
    together = step_together(together, *jax.device_put(BATCH, split))
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)


def gathered_loss(params, *batch):
    """Right under explicit axes: weights that are split come together before they are used."""
    whole = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, P()), params)
    return network_loss(whole, *batch)


@pytest.mark.parametrize(
    "name, options",
    [
        ("friendly_sam", {}),
        ("friendly_sam", {"microbatches": 16}),
        ("friendly_sam", {"groups": 8}),
        ("friendly_sam", {"groups": 4}),
        ("zsharp", {}),
        ("zsharp global", {"groups": 4}),
    ],
)
@pytest.mark.parametrize("place", [slow(replicated), fully_sharded])
@pytest.mark.fast_for("*-options0", "*-options4")
def test_explicit_axes_take_the_step_of_one_device(place, name, options):
    mesh, ascent = jax.make_mesh((8,), ("data",)), ASCENTS[name]
    assert mesh.explicit_axes == ("data",)
    alone = init_state(network_params(), OPTIMIZER, ascent)
    alone = sam_step(network_loss, OPTIMIZER, ascent, **options)(alone, *BATCH)
    with contextlib.nullcontext() if place is replicated else jax.set_mesh(mesh):
        state = init_state(place(mesh, network_params()), OPTIMIZER, ascent)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        loss_fn = network_loss if place is replicated else gathered_loss
        step = sam_step(loss_fn, OPTIMIZER, ascent, plain_if_zero=True, **options)
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        together = step(state, *batch)
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)
    assert_shardings(together[0], shardings)


@pytest.mark.parametrize("index", [0, 3])
def test_parameters_put_on_one_device_keep_the_state_there_and_compile_once(compilations, index):
    device = jax.devices()[index]
    state = init_state(jax.device_put(network_params(), device), OPTIMIZER, friendly_sam(0.1))
    step = sam_step(network_loss, OPTIMIZER, friendly_sam(0.1))
    counts = [len(compilations)]
    for _ in range(3):
        state, _ = step(state, *BATCH)
        counts.append(len(compilations))
        assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(state))
    assert counts[0] < counts[1] == counts[2] == counts[3]


def assert_only_few_numbers_are_exchanged(program):
    """Of two layers the counts of three candidates: six numbers at most, and no entry of a leaf."""
    sums = re.findall(r" = (.*?) all-reduce(?:-start)?\(", program)
    assert sums
    for results in sums:  # XLA makes one exchange of several, with a tuple of results
        shapes = re.findall(r"\w\[([\d,]*)\]", results)
        sizes = [math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes]
        assert sizes and max(sizes) <= 6, results
    moved = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast")
    for operation in (*moved, "reduce-scatter", "sort("):
        assert operation not in program, operation


@pytest.mark.parametrize("shape", [(64, 32), (248, 64), (1040, 24)])
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.fast_for("*-shape0")
def test_the_filter_of_a_sharded_tensor_gathers_and_sorts_nothing(mesh, scope, shape):
    split = NamedSharding(mesh, P("data"))
    rng = np.random.default_rng(0)
    gradients = {
        name: jax.device_put(rng.normal(size=shape).astype("f4"), split) for name in ("a", "b")
    }
    transformation = zscore_filter(0.9, scope=scope)
    update = jax.jit(lambda g: transformation.update(g, optax.EmptyState())[0])
    compiled = update.lower(gradients).compile()
    assert_only_few_numbers_are_exchanged(compiled.as_text())
    kept = compiled(gradients)
    assert kept["a"].sharding.is_equivalent_to(split, 2)
    alone = update(jax.tree.map(jnp.asarray, jax.device_get(gradients)))
    chex.assert_trees_all_equal(jax.device_get(kept), jax.device_get(alone))


@pytest.mark.parametrize("place", [fully_sharded, slow(sharded_on_two_axes)])
@pytest.mark.parametrize("ascent", ASCENTS.values(), ids=ASCENTS)
@pytest.mark.fast_for("zsharp-*", "friendly_sam-*")
def test_an_ascent_along_sharded_tensors_gathers_and_sorts_nothing(mesh, ascent, place):
    shapes = {"first": (248, 64), "second": (64, 32), "bias": (32,)}
    gradients = place(mesh, {name: jnp.ones(shape) for name, shape in shapes.items()})
    params, state = gradients, ascent.init(gradients)
    compiled = jax.jit(ascent.update).lower(gradients, state, params).compile()
    assert_only_few_numbers_are_exchanged(compiled.as_text())
    perturbation, _ = compiled.output_shardings
    assert_shardings(gradients, perturbation)


@pytest.mark.parametrize("check_vma", [False, True])
def test_each_device_filters_its_own_in_a_shard_map(mesh, check_vma):
    gradients = np.random.default_rng(0).normal(size=(8, 16, 4)).astype(np.float32)
    transformation = zscore_filter(0.5)
    update = lambda g: transformation.update(g, optax.EmptyState())[0]  # noqa: E731
    mapped = jax.shard_map(
        lambda shard: update(shard[0])[None],
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
        check_vma=check_vma,
    )
    expected = jax.vmap(update)(gradients)
    chex.assert_trees_all_equal(jax.device_get(jax.jit(mapped)(gradients)), np.asarray(expected))
