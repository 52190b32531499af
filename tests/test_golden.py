"""Twenty steps of the authors' code in float64, taken by each of the three ways to step."""

import jax
import numpy as np
import optax
import pytest
from golden_run import ASCENTS, GOLDEN, STEPS, assert_close, loss_fn, optimizer, tree

from zsharp_jax import init_state, sam, sam_step, sharpness_aware


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("method", ASCENTS)
def test_ascent_update(method):
    ascent, descent = ASCENTS[method], optimizer()
    w = tree("initial")
    ascent_state, opt_state = ascent.init(w), descent.init(w)
    gradient_at = jax.jit(jax.grad(loss_fn))
    for step in range(STEPS):
        np.testing.assert_allclose(loss_fn(w), GOLDEN[f"{method}/clean_loss"][step], atol=1e-6)
        perturbation, ascent_state = ascent.update(gradient_at(w), ascent_state, w)
        if step < 5:
            assert_close(perturbation, f"{method}/perturbation{step}")
        sharp = gradient_at(optax.apply_updates(w, perturbation))
        updates, opt_state = descent.update(sharp, opt_state, w)
        w = optax.apply_updates(w, updates)
    assert_close(w, f"{method}/final")


@pytest.mark.parametrize("method", ASCENTS)
@pytest.mark.fast_for("zsharp")
def test_sam_step(method):
    ascent, descent = ASCENTS[method], optimizer()
    state, step = init_state(tree("initial"), descent, ascent), sam_step(loss_fn, descent, ascent)
    for clean_loss in GOLDEN[f"{method}/clean_loss"]:
        state, info = step(state)
        np.testing.assert_allclose(info.loss, clean_loss, atol=1e-6)
    assert_close(state.params, f"{method}/final")


@pytest.mark.parametrize("method", ASCENTS)
@pytest.mark.fast_for("zsharp")
def test_sharpness_aware(method):
    tx, gradient_at = sharpness_aware(optimizer(), ASCENTS[method]), jax.grad(loss_fn)

    @jax.jit
    def step(w, state):
        updates, state = tx.update(gradient_at(w), state, w, grad_fn=gradient_at)
        return optax.apply_updates(w, updates), state

    w = tree("initial")
    state = tx.init(w)
    for _ in range(STEPS):
        w, state = step(w, state)
    assert_close(w, f"{method}/final")


def test_without_perturbation_it_is_the_base_optimizer():
    descent = optimizer()
    state, step = (
        init_state(tree("initial"), descent, sam(0.0)),
        sam_step(loss_fn, descent, sam(0.0)),
    )
    for _ in range(STEPS):
        state, _ = step(state)
    assert_close(state.params, "base/final")
