"""A step that is not finite is skipped when asked for: nothing moves, and it is counted."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, moving_statistics_loss, network_loss, network_params

from zsharp_jax import friendly_sam, init_state, sam, sam_step

BAD_BATCHES = {
    "NaN": (np.full_like(BATCH[0], np.nan), BATCH[1]),
    "infinite": (BATCH[0], np.full_like(BATCH[1], np.inf)),
}


def loss_that_breaks_when_perturbed(params, start):
    """Finite at `start` alone: the clean pass is fine, the sharp one is not."""
    moved = jnp.sum((params - start) ** 2)
    return jnp.sum(params) + jnp.where(moved > 0, jnp.nan, 0.0) * moved


def noisy_adam():
    """Its state holds a PRNG key, counters and a bool."""
    adam = optax.apply_if_finite(optax.adam(1e-2), max_consecutive_errors=3)
    return optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), adam)


@pytest.mark.parametrize("batch", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_step_that_is_not_finite_moves_nothing_and_is_counted(batch):
    optimizer, ascent = noisy_adam(), friendly_sam(0.1)
    step = sam_step(network_loss, optimizer, ascent, skip_nonfinite=True)
    state, _ = step(init_state(network_params(), optimizer, ascent), *BATCH)
    before = jax.device_get(jax.tree.map(jnp.copy, state._replace(opt_state=None)))
    moments = jax.device_get(optax.tree.get(state, "mu"))

    state, info = step(state, *batch)
    assert (info.skips.total, info.skips.in_a_row) == (1, 1)
    chex.assert_trees_all_equal(state.skips, info.skips)
    after = state._replace(opt_state=None, skips=before.skips)
    chex.assert_trees_all_equal(jax.device_get(after), before)
    chex.assert_trees_all_equal(jax.device_get(optax.tree.get(state, "mu")), moments)

    state, info = step(state, *BATCH)
    assert (info.skips.total, info.skips.in_a_row) == (1, 0)
    assert state.step == 2 and np.isfinite(info.loss)


def test_a_sharp_pass_that_is_not_finite_is_skipped_too():
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    step = sam_step(loss_that_breaks_when_perturbed, optimizer, ascent, skip_nonfinite=True)
    start = jnp.ones((2, 2))
    state, info = step(init_state(start, optimizer, ascent), start)
    assert np.isfinite(info.loss) and not np.isfinite(info.sharp_loss)
    np.testing.assert_array_equal(state.params, start)
    assert info.skips.in_a_row == 1


def test_finite_steps_are_those_without_skipping():
    optimizer, ascent = optax.adamw(1e-2), sam(0.1)
    states = []
    for skip in (False, True):
        step = sam_step(network_loss, optimizer, ascent, skip_nonfinite=skip)
        state = init_state(network_params(), optimizer, ascent)
        for _ in range(3):
            state, info = step(state, *BATCH)
        states.append(state)
        assert (info.skips is not None) == skip
    chex.assert_trees_all_close(*states, rtol=1e-6)


def test_statistics_are_kept_with_what_the_step_tells():
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    step = sam_step(moving_statistics_loss, optimizer, ascent, has_aux=True, skip_nonfinite=True)
    state, statistics = init_state(network_params(), optimizer, ascent), jnp.array(2.0)
    for batch in (BATCH, BAD_BATCHES["NaN"], BATCH):
        state, info = step(state, statistics, *batch)
        statistics = jnp.where(info.skips.in_a_row > 0, statistics, info.aux)
    clean = init_state(network_params(), optimizer, ascent)
    expected = jnp.array(2.0)
    for _ in range(2):
        clean, info = step(clean, expected, *BATCH)
        expected = info.aux
    chex.assert_trees_all_equal(statistics, expected)


def test_too_many_skips_in_a_row_end_it():
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    step = sam_step(network_loss, optimizer, ascent, skip_nonfinite=True, max_consecutive_skips=3)
    state, bad = init_state(network_params(), optimizer, ascent), BAD_BATCHES["NaN"]
    for batch in (bad, bad, BATCH, bad, bad, BATCH, BATCH, BATCH):  # never three in a row
        state, _ = step(state, *batch)
    for _ in range(3):
        state, _ = step(state, *bad)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row.*`max_consecutive_skips`"):
        for _ in range(3):  # one or two late
            state, _ = step(state, *bad)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    state, _ = step(state, *BATCH)  # whoever catches it may go on
    assert state.skips.in_a_row == 0


def test_skips_of_one_run_do_not_end_another():
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    step = sam_step(network_loss, optimizer, ascent, skip_nonfinite=True, max_consecutive_skips=1)
    for batch in (BAD_BATCHES["NaN"], BATCH, BATCH, BATCH):
        state, _ = step(init_state(network_params(), optimizer, ascent), *batch)
    assert state.skips.total == 0


def test_within_a_jit_of_the_users_it_counts_and_does_not_end():
    optimizer, ascent = optax.sgd(0.1), sam(0.1)
    step = sam_step(network_loss, optimizer, ascent, skip_nonfinite=True, max_consecutive_skips=1)

    @jax.jit
    def many(state):
        return jax.lax.scan(lambda state, _: step(state, *BAD_BATCHES["NaN"]), state, None, 5)

    state, info = many(init_state(network_params(), optimizer, ascent))
    assert state.skips.total == 5
    np.testing.assert_array_equal(info.skips.in_a_row, [1, 2, 3, 4, 5])


def test_a_bad_number_of_skips_is_refused():
    with pytest.raises(ValueError, match="`max_consecutive_skips` must be an integer of at least"):
        sam_step(network_loss, optax.sgd(0.1), sam(0.1), max_consecutive_skips=0)
