"""A rho that is 0 at times: plain steps in between, with the second pass saved."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, network_loss, network_params

from zsharp_jax import (
    init_state,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    zsharp,
)

# A matrix product in a compiled program: XLA's own, or what it calls a library for.
PRODUCT = re.compile(r' dot\(|custom_call_target="[^"]*(?:gemm|matmul)')
CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")


def lengths(schedule, steps=8, **options):
    optimizer, ascent = optax.sgd(0.1), zsharp(schedule)
    step = sam_step(network_loss, optimizer, ascent, **options)
    state, found = init_state(network_params(), optimizer, ascent), []
    for _ in range(steps):
        state, info = step(state, *BATCH)
        found.append(float(info.perturbation_norm))
    return found


@pytest.mark.parametrize("plain_if_zero", [False, True])
def test_every_so_many_steps_between_start_and_stop(plain_if_zero):
    schedule = periodic_rho(0.1, every=2, start=1, stop=6)
    expected = [0, 0.1, 0, 0.1, 0, 0.1, 0, 0]
    np.testing.assert_allclose(lengths(schedule, plain_if_zero=plain_if_zero), expected, rtol=1e-5)


def test_a_schedule_may_be_periodic():
    rising = optax.linear_schedule(0.0, 0.8, 8)
    np.testing.assert_allclose(
        lengths(periodic_rho(rising, every=3)), [0, 0, 0, 0.3, 0, 0, 0.6, 0], rtol=1e-5
    )


def test_plain_steps_are_those_of_the_bare_optimizer_and_count_goes_on_after_a_resume():
    optimizer, ascent = optax.adamw(1e-2), sam(periodic_rho(0.1, every=3, start=2))
    step = sam_step(network_loss, optimizer, ascent, plain_if_zero=True)
    bare = sam_step(network_loss, optimizer, sam(0.0))
    state = init_state(network_params(), optimizer, ascent)
    plain = init_state(network_params(), optimizer, sam(0.0))
    for _ in range(2):
        state, info = step(state, *BATCH)
        plain, _ = bare(plain, *BATCH)
        assert info.sharp_loss == info.loss
    np.testing.assert_array_equal(
        *[np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(each.params)])
          for each in (state, plain)]
    )  # fmt: skip
    restored = jax.tree.map(jnp.asarray, jax.device_get(state))
    _, info = sam_step(network_loss, optimizer, ascent, plain_if_zero=True)(restored, *BATCH)
    np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-5)


def test_the_second_pass_is_saved_by_a_branch():
    """Counted as they are run, by the device."""
    optimizer, ascent = optax.sgd(0.1), sam(periodic_rho(0.1, every=2))
    params = network_params()

    def counted(plain_if_zero):
        passes = []

        def loss_fn(params, *batch):
            jax.debug.callback(lambda: passes.append(1))
            return network_loss(params, *batch)

        step = sam_step(loss_fn, optimizer, ascent, plain_if_zero=plain_if_zero)
        state, counts = init_state(params, optimizer, ascent), []
        for _ in range(4):
            state, _ = step(state, *BATCH)
            jax.effects_barrier()
            counts.append(len(passes))
        return np.diff([0, *counts]).tolist()

    assert counted(plain_if_zero=False) == [2, 2, 2, 2]
    assert counted(plain_if_zero=True) == [2, 1, 2, 1]


def products_of(function, *inputs):
    """How many matrix products the compiled function has, and how many of them lie in each branch
    of each conditional."""
    program = jax.jit(function).lower(*inputs).compile().as_text()
    block = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
    computations = dict(block.findall(program))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", program, re.MULTILINE)[1]

    def called(text):
        return [name for names in CALLED.findall(text) for name in re.findall(r"[\w.\-]+", names)]

    def products(name):
        text = computations[name]
        return len(PRODUCT.findall(text)) + sum(map(products, called(text)))

    conditionals = re.findall(r" conditional\(.*", program)
    return products(entry), [sorted(map(products, called(line))) for line in conditionals]


@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"microbatches": 2}])
@pytest.mark.fast_for("options2")
def test_one_branch_of_the_program_has_all_of_the_second_pass(options):
    ascent, params = sam(periodic_rho(0.1, every=2)), network_params()

    def products(plain_if_zero):
        ascend = sharp_value_and_grad(network_loss, ascent, plain_if_zero=plain_if_zero, **options)
        return products_of(ascend, params, ascent.init(params), *BATCH)

    of_a_pass, _ = products_of(jax.value_and_grad(network_loss), params, *BATCH)
    assert of_a_pass > 0
    assert products(plain_if_zero=False) == (2 * of_a_pass, [])
    assert products(plain_if_zero=True) == (2 * of_a_pass, [[0, of_a_pass]])


@pytest.mark.parametrize("groups", [1, 4])
def test_plain_steps_of_narrow_weights(groups):
    """The loss at w + ε is wider than that at w."""

    def loss_fn(w, inputs):
        return jnp.mean((inputs @ w) ** 2), jnp.sum(w)

    ascent = sam(periodic_rho(0.1, every=2))
    options = {"has_aux": True, "groups": groups, "batch_argnums": 1, "plain_if_zero": True}
    ascend = jax.jit(sharp_value_and_grad(loss_fn, ascent, **options))
    w, inputs = jnp.ones((4, 2), jnp.bfloat16), jnp.ones((8, 4), jnp.bfloat16)
    (_, gradients), state, sharp = ascend(w, ascent.init(w), inputs)
    (_, _), _, plain = ascend(w, state, inputs)
    assert gradients.dtype == jnp.bfloat16
    assert sharp.sharp_loss > sharp.loss and plain.sharp_loss == plain.loss


def test_sharpness_aware_saves_it_too():
    calls = []

    def grad_fn(params):
        jax.debug.callback(lambda: calls.append(1))
        return jax.grad(network_loss)(params, *BATCH)

    tx = sharpness_aware(optax.sgd(0.1), sam(periodic_rho(0.1, every=2)), plain_if_zero=True)
    params = network_params()

    @jax.jit
    def update(params, state):
        gradients = jax.grad(network_loss)(params, *BATCH)
        updates, state = tx.update(gradients, state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for expected in (1, 1, 2, 2):
        params, state = update(params, state)
        jax.effects_barrier()
        assert len(calls) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, "`every` must be an integer of at least 1, got 0"),
        ({"start": -1}, "`start` must be an integer of at least 0, got -1"),
        ({"start": 5, "stop": 4}, "`stop` must be an integer of at least 5, got 4"),
        ({"rho": -0.1}, "`rho` must be finite and at least 0, got -0.1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        periodic_rho(**{"rho": 0.1, **options})
