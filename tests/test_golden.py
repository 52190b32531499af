"""Twenty steps of the authors' code in float64, taken by each of the three ways to step."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    sam,
    sam_step,
    sharpness_aware,
    zsharp_reference,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "reference_run.npz")
RHO, STEPS = float(GOLDEN["rho"]), int(GOLDEN["steps"])
ASCENTS = {
    "sam": sam(RHO),
    "asam": asam(float(GOLDEN["asam_rho"]), eta=float(GOLDEN["asam_eta"])),
    "friendly": friendly_sam(RHO, sigma=1.0, decay=0.9),
    "zsharp": zsharp_reference(RHO, float(GOLDEN["quantile"])),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tree(prefix):
    """The arrays PREFIX/LAYER/KIND as {layer: {kind: array}}."""
    arrays = {}
    for key in GOLDEN.files:
        if key.startswith(f"{prefix}/"):
            layer, kind = key.removeprefix(f"{prefix}/").split("/")
            arrays.setdefault(layer, {})[kind] = jnp.asarray(GOLDEN[key])
    return arrays


def loss_fn(w):
    """The analytic loss of the golden run."""

    def bowl(w, a, c):
        return jnp.sum(a * (w - c) ** 2) / 2 + jnp.sum(jnp.sin(3 * w)) / 10

    total = sum(jax.tree.leaves(jax.tree.map(jnp.sum, w)))
    size = sum(leaf.size for leaf in jax.tree.leaves(w))
    return (
        sum(jax.tree.leaves(jax.tree.map(bowl, w, tree("a"), tree("c")))) + 0.05 * total**2 / size
    )


def optimizer():
    """PyTorch's Adam, whose weight decay is added to the gradient."""
    decay, rate = float(GOLDEN["weight_decay"]), float(GOLDEN["learning_rate"])
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))


def assert_close(found, prefix):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, tree(prefix))


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
def test_sam_step(method):
    ascent, descent = ASCENTS[method], optimizer()
    state, step = init_state(tree("initial"), descent, ascent), sam_step(loss_fn, descent, ascent)
    for clean_loss in GOLDEN[f"{method}/clean_loss"]:
        state, info = step(state)
        np.testing.assert_allclose(info.loss, clean_loss, atol=1e-6)
    assert_close(state.params, f"{method}/final")


@pytest.mark.parametrize("method", ASCENTS)
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
