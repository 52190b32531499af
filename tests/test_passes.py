"""A step of one pass, and a first pass on a share of the batch: cheaper, and what they say."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import test_golden
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import BATCH, moving_statistics_loss, network_loss, network_params

from zsharp_jax import (
    friendly_sam,
    init_state,
    sam,
    sam_step,
    scale_to_norm,
    sharp_value_and_grad,
    zsharp,
)

RATE, MOMENTUM, RHO, STEPS = 0.05, 0.9, 0.3, 20
OPTIMIZER = optax.sgd(RATE, momentum=MOMENTUM)
SHIFTS = np.random.default_rng(0).normal(size=(STEPS, 8))  # a batch for each step
ASCENTS = {
    "sam": sam(RHO),
    "zsharp": zsharp(RHO, 0.8),
    "momentum": optax.chain(optax.trace(0.9), scale_to_norm(RHO)),
}


def shifted_loss(w, shifts):
    """The loss of the golden run, tilted by the mean of the batch."""
    total = sum(jax.tree.leaves(jax.tree.map(jnp.sum, w)))
    return test_golden.loss_fn(w) + jnp.mean(shifts) * total


def flat(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def gradient_written_out(w, shifts):
    a, c = flat(test_golden.tree("a")), flat(test_golden.tree("c"))
    total, size = sum(leaf.sum() for leaf in w.values()), sum(leaf.size for leaf in w.values())
    tilt = 0.1 * total / size + shifts.mean()
    return {n: a[n] * (w[n] - c[n]) + 0.3 * np.cos(3 * w[n]) + tilt for n in w}


class Ascent:
    """The three ascents in NumPy; the momentum is kept between calls."""

    def __init__(self, name):
        self.name, self.trace = name, 0.0

    def __call__(self, gradient):
        if self.name == "zsharp":
            return oracles.zsharp(gradient, RHO, 0.8)
        if self.name == "momentum":
            old = self.trace or dict.fromkeys(gradient, 0.0)
            gradient = self.trace = {n: 0.9 * old[n] + gradient[n] for n in gradient}
        length = oracles.norm(gradient.values())
        return {n: RHO * g / (length + 1e-8) for n, g in gradient.items()}


def written_out(name, first_gradient):
    """Twenty steps; `first_gradient(w, shifts, sharp)` is what ε comes from, None for no ε."""
    w, ascent, velocity, sharp = flat(test_golden.tree("initial")), Ascent(name), 0.0, None
    for shifts in SHIFTS:
        gradient = first_gradient(w, shifts, sharp)
        perturbation = dict.fromkeys(w, 0.0) if gradient is None else ascent(gradient)
        sharp = gradient_written_out({n: w[n] + perturbation[n] for n in w}, shifts)
        old = velocity or dict.fromkeys(w, 0.0)
        velocity = {n: MOMENTUM * old[n] + sharp[n] for n in w}
        w = {n: w[n] - RATE * velocity[n] for n in w}
    return w


WAYS = {
    "one pass": ({"one_pass": True}, lambda w, shifts, sharp: sharp),
    "a quarter": (
        {"ascent_share": 1 / 4},
        lambda w, shifts, sharp: gradient_written_out(w, shifts[::4]),
    ),
}


@pytest.mark.parametrize(
    "way, name", [*[("one pass", name) for name in ASCENTS], ("a quarter", "sam")]
)
@pytest.mark.fast_for("one pass-zsharp", "a quarter-*")
def test_twenty_steps_are_those_written_out(way, name):
    options, first_gradient = WAYS[way]
    with jax.enable_x64(True):
        step = sam_step(shifted_loss, OPTIMIZER, ASCENTS[name], **options)
        one_pass = way == "one pass"
        state = init_state(test_golden.tree("initial"), OPTIMIZER, ASCENTS[name], one_pass=one_pass)
        for number, shifts in enumerate(SHIFTS):
            if number == 10:  # stopped here, and resumed
                state = jax.tree.map(jnp.asarray, jax.device_get(state))
            state, info = step(state, jnp.asarray(shifts))
            assert info.perturbation_norm == pytest.approx(RHO * (not one_pass or number > 0))
        expected = written_out(name, first_gradient)
        for key, leaf in flat(state.params).items():
            np.testing.assert_allclose(leaf, expected[key], atol=1e-6)


def test_the_whole_batch_as_its_share_is_the_step_as_always_bit_for_bit():
    steps = [sam_step(network_loss, OPTIMIZER, sam(RHO), **o) for o in ({}, {"ascent_share": 1.0})]
    states = [step(init_state(network_params(), OPTIMIZER, sam(RHO)), *BATCH) for step in steps]
    chex.assert_trees_all_equal(*states)


def test_the_saved_passes_are_not_in_the_compiled_program():
    def loss_fn(w, inputs):
        return jnp.mean(jnp.tanh(inputs @ w) ** 2)

    w, inputs = jnp.ones((64, 64)), jnp.ones((512, 64))
    gradient = jax.jit(jax.grad(loss_fn)).lower(w, inputs).compile().cost_analysis()["flops"]
    for options, passes in (({}, 2), ({"one_pass": True}, 1), ({"ascent_share": 1 / 4}, 1.25)):
        ascend = sharp_value_and_grad(loss_fn, sam(RHO), **options)
        program = jax.jit(ascend).lower(w, ascend.init(w), inputs).compile()
        assert program.cost_analysis()["flops"] / gradient == pytest.approx(passes, rel=0.05)


IN_PARTS = [
    {"one_pass": True},
    {"one_pass": True, "microbatches": 2},
    {"ascent_share": 1 / 4},
    {"ascent_share": 1 / 2, "groups": 8},
    {"ascent_share": 1 / 2, "microbatches": 4},
]


def two_steps(step, state, batch):
    for _ in range(2):
        state, info = step(state, *batch)
    return state, info


LAUNCHED = [(options, launched) for options in IN_PARTS for launched in ("explicit", "shard_map")]


@pytest.mark.parametrize("options, launched", [*LAUNCHED, (IN_PARTS[3], "automatic")])
@pytest.mark.fast_for("options0-*", "options1-*")
def test_eight_devices_take_the_steps_of_one(options, launched):
    ascent, one_pass = friendly_sam(RHO), options.get("one_pass", False)
    state = init_state(network_params(), OPTIMIZER, ascent, one_pass=one_pass)
    alone = two_steps(
        sam_step(network_loss, OPTIMIZER, ascent, donate=False, **options), state, BATCH
    )
    kind = AxisType.Explicit if launched == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    if launched == "shard_map":
        step = sam_step(network_loss, OPTIMIZER, ascent, axis_name="data", **options)
        specs = (P(), P("data"), P("data"))
        step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P()))
        together = two_steps(step, state, BATCH)
    else:
        params = jax.device_put(network_params(), NamedSharding(mesh, P()))
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        step = sam_step(network_loss, OPTIMIZER, ascent, **options)
        state = init_state(params, OPTIMIZER, ascent, one_pass=one_pass)
        together = two_steps(step, state, batch)
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)


def test_the_share_of_each_group_and_of_micro_batches():
    params, ascent = network_params(), sam(RHO)

    def ascend(batch, **options):
        ascend = sharp_value_and_grad(network_loss, ascent, **options)
        return jax.jit(ascend)(params, ascend.init(params), *batch)

    halves = [[half[i] for half in [np.split(array, 2) for array in BATCH]] for i in (0, 1)]
    each = [ascend(half, ascent_share=1 / 4) for half in halves]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *each)
    grouped = ascend(BATCH, ascent_share=1 / 4, groups=2)
    chex.assert_trees_all_close((grouped[0], grouped[2]), (mean[0], mean[2]), rtol=1e-4, atol=1e-6)
    for share in (1 / 2, 1 / 8):  # two of four micro-batches, and half a one
        whole = ascend(BATCH, ascent_share=share)
        in_turn = ascend(BATCH, ascent_share=share, microbatches=4)
        chex.assert_trees_all_close(in_turn, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"ascent_share": 1 / 4}, {"one_pass": True}])
def test_loss_and_aux_are_those_of_what_was_evaluated(options):
    params, ascent, statistics = network_params(), sam(RHO), jnp.array(2.0)
    ascend = sharp_value_and_grad(
        moving_statistics_loss, ascent, True, batch_argnums=(2, 3), **options
    )
    state = ascend.init(params)
    for _ in range(2):
        (value, _), state, info = ascend(params, state, statistics, *BATCH)
    assert info.perturbation_norm == pytest.approx(RHO)
    at_w = moving_statistics_loss(params, statistics, *[array[::4] for array in BATCH])
    if "one_pass" in options:
        assert info.loss is None and info.gradient_norm is None and info.sharp_aux is None
        assert value == (info.sharp_loss, info.aux) and info.aux != at_w[1]
    else:
        np.testing.assert_allclose((info.loss, info.aux), at_w, rtol=1e-6)
        assert value == (info.loss, info.aux) and info.sharp_aux != info.aux


@pytest.mark.parametrize("skip_nonfinite", [True, False])
def test_the_gradient_of_a_bad_batch_is_not_kept(skip_nonfinite):
    optimizer, ascent = optax.apply_if_finite(optax.sgd(0.1), 3), friendly_sam(RHO)
    options = {"one_pass": True, "skip_nonfinite": skip_nonfinite}
    step = sam_step(network_loss, optimizer, ascent, **options)
    bad = [array * np.nan for array in BATCH]
    states = []
    for batches in ([BATCH, bad, BATCH, BATCH], [BATCH, BATCH, BATCH]):
        state = init_state(network_params(), optimizer, ascent, one_pass=True)
        assert step(jax.tree.map(jnp.copy, state), *bad)[0].ascent_state.is_first
        for batch in batches:
            state, info = step(state, *batch)
        states.append(state)
    assert np.isfinite(info.sharp_loss)
    if skip_nonfinite:
        chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-6)
    else:  # the ascent was taken, the update was not
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states[0].ascent_state))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"one_pass": True, "groups": 2}, "`one_pass` takes no `groups`"),
        ({"one_pass": True, "ascent_share": 1 / 2}, "no first pass that `ascent_share` could"),
        ({"one_pass": True, "plain_if_zero": True}, "`plain_if_zero` saves the second pass where"),
        ({"ascent_share": 1 / 2, "plain_if_zero": True}, "`plain_if_zero` saves the second pass"),
        ({"ascent_share": 0.3}, r"`ascent_share` must be 1 or one over an integer.* got 0.3"),
        ({"ascent_share": 4}, r"`ascent_share` must be 1 or one over an integer.* got 4"),
        ({"ascent_share": 1 / 4, "microbatches": 6}, "must be a whole number of them"),
    ],
)
def test_what_saves_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sam_step(network_loss, OPTIMIZER, sam(RHO), **options)


def test_a_state_of_the_other_kind_is_refused_with_a_way_out():
    for one_pass, message in (
        (True, "make it by `init_state"),
        (False, "is one of `one_pass=True`"),
    ):
        state = init_state(network_params(), OPTIMIZER, sam(RHO), one_pass=not one_pass)
        with pytest.raises(ValueError, match=message):
            sam_step(network_loss, OPTIMIZER, sam(RHO), one_pass=one_pass)(state, *BATCH)
    with pytest.raises(ValueError, match="`ascent_share` must divide the batch, got 64 examples"):
        step = sam_step(network_loss, OPTIMIZER, sam(RHO), ascent_share=1 / 5)
        step(init_state(network_params(), OPTIMIZER, sam(RHO)), *BATCH)
