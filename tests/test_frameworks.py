"""`nnx.Optimizer` and Equinox models take the same steps as `sam_step`."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from problems import BATCH

from zsharp_jax import init_state, sam, sam_step, sharpness_aware

INPUTS, TARGETS = BATCH
OPTIMIZER, ASCENT = optax.adam(1e-2), sam(0.3)


class Network(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.dropout(jnp.tanh(self.norm(self.hidden(inputs)))))


def squares(model):
    return jnp.mean((model(INPUTS) - TARGETS) ** 2)


def trained_by_nnx(tx, steps=2):
    model = Network()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer):
        graphdef, _, rest = nnx.split(nnx.clone(model), nnx.Param, ...)

        def sharp_loss(params):
            return squares(nnx.merge(graphdef, params, rest, copy=True))

        optimizer.update(model, nnx.grad(squares)(model), grad_fn=jax.grad(sharp_loss))

    for _ in range(steps):
        train_step(model, optimizer)
    return model, optimizer


def trained_by_sam_step(ascent, steps=2):
    graphdef, params, rest = nnx.split(Network(), nnx.Param, ...)

    def loss_fn(params, rest):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return squares(model), nnx.split(model, nnx.Param, ...)[2]

    step, state = sam_step(loss_fn, OPTIMIZER, ascent, has_aux=True), None
    state = init_state(params, OPTIMIZER, ascent)
    for _ in range(steps):
        state, info = step(state, rest)
        rest = info.aux
    return nnx.merge(graphdef, state.params, rest), info


@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.fast_for("0.3")
def test_nnx_with_batch_norm_and_dropout(rho):
    """Parameters, statistics and PRNG counters; without rho, those of the bare optimizer."""
    model, optimizer = trained_by_nnx(sharpness_aware(OPTIMIZER, sam(rho)))
    expected, info = trained_by_sam_step(sam(rho))
    chex.assert_trees_all_close(*map(arrays_of, (model, expected)), rtol=1e-4, atol=1e-5)
    found = optimizer.opt_state.perturbation_norm.get_value()
    chex.assert_trees_all_close(found, info.perturbation_norm, rtol=1e-5)
    if rho == 0:
        bare, _ = trained_by_nnx(optax.with_extra_args_support(OPTIMIZER))
        chex.assert_trees_all_close(*map(arrays_of, (model, bare)), rtol=1e-5, atol=1e-6)


def arrays_of(model):
    return jax.tree.leaves(nnx.state(model, nnx.Not(nnx.RngKey)))


def test_an_equinox_model_that_is_split():
    model = eqx.nn.MLP(6, 3, width_size=8, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params):
        return squares(jax.vmap(eqx.combine(params, static)))

    tx, gradient_at = sharpness_aware(OPTIMIZER, ASCENT), jax.grad(loss_fn)

    @eqx.filter_jit
    def make_step(model, opt_state):
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = tx.update(gradient_at(params), opt_state, params, grad_fn=gradient_at)
        return eqx.apply_updates(model, updates), opt_state

    trained, _ = make_step(model, tx.init(params))
    state, _ = sam_step(loss_fn, OPTIMIZER, ASCENT)(init_state(params, OPTIMIZER, ASCENT))
    found = eqx.filter(trained, eqx.is_inexact_array)
    chex.assert_trees_all_close(found, state.params, rtol=1e-5, atol=1e-6)
    for make in (init_state, lambda *args: sharpness_aware(*args[1:]).init(args[0])):
        with pytest.raises(TypeError, match=r"function `relu` at `.activation`.*eqx.partition"):
            make(model, OPTIMIZER, ASCENT)
