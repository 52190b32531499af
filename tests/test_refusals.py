"""What stands in the wrong place is refused, and the message says what belongs there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from zsharp_jax import (
    asam,
    friendly_sam,
    init_state,
    masked_ascent,
    mean_value_and_grad,
    mix_gradients,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    surrogate_gap,
    zsharp,
)

PARAMS = {"w": np.ones((4, 1), np.float32), "b": np.zeros(1, np.float32)}
INPUTS, TARGETS = np.ones((8, 4), np.float32), np.ones((8, 1), np.float32)
BATCH = (INPUTS, TARGETS)
OPTIMIZER, ASCENT = optax.sgd(0.1), sam(0.05)
SHARP = sharpness_aware(OPTIMIZER, ASCENT)


def loss_fn(params, inputs, targets):
    return jnp.mean((inputs @ params["w"] + params["b"][None] - targets) ** 2)


def first_state(optimizer=OPTIMIZER, ascent=ASCENT, params=PARAMS):
    return init_state(params, optimizer, ascent)


def step_with(optimizer=OPTIMIZER, ascent=ASCENT, loss_fn=loss_fn, **options):
    return sam_step(loss_fn, optimizer, ascent, **options)


MASK = {"w": True, "b": False}


def train_state():
    return TrainState.create(apply_fn=None, params=PARAMS, tx=OPTIMIZER)


def with_states_of(optimizer=OPTIMIZER, ascent=ASCENT):
    """A step that gets the state of another optimizer or ascent."""
    return step_with(optimizer, ascent)(first_state(), *BATCH)


def updated_by_nnx():
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, SHARP, wrt=nnx.Param)
    graphdef = nnx.graphdef(model)

    def gradients_of(model):
        return nnx.grad(lambda model: jnp.mean(model(INPUTS) ** 2))(model)

    optimizer.update(
        model, gradients_of(model), grad_fn=lambda state: gradients_of(nnx.merge(graphdef, state))
    )


def linen_variables():
    return {"params": PARAMS, "batch_stats": {"norm": np.ones(3, np.float32)}}


def nnx_model():
    return nnx.BatchNorm(3, rngs=nnx.Rngs(0))


def updated_with(tx, **replaced):
    """An update of `sharpness_aware` with another state or `grad_fn`."""
    gradient_at = jax.grad(lambda params: loss_fn(params, *BATCH))
    given = {"state": tx.init(PARAMS), "grad_fn": gradient_at} | replaced
    return tx.update(PARAMS, given["state"], PARAMS, grad_fn=given["grad_fn"])


def with_params(**params):
    """A step after the parameters in its state have been replaced."""
    state = first_state(optax.adam(0.1))._replace(params=params)
    return step_with(optax.adam(0.1), loss_fn=lambda p, x, y: jnp.sum(p["w"]))(state, *BATCH)


def scheduled(ascent=ASCENT, link=None):
    optimizer = OPTIMIZER if link is None else optax.chain(link, OPTIMIZER)
    return step_with(optimizer, ascent)(first_state(optimizer, ascent), *BATCH)


FLAT = optax.flatten(optax.chain(surrogate_gap(), OPTIMIZER))

MISTAKES = {
    "all linen variables": (
        lambda: first_state(params=linen_variables()),
        "got `batch_stats` beside `params`: hand over `variables['params']`",
    ),
    "an NNX model with statistics": (
        lambda: first_state(params=nnx_model()),
        "got the NNX variable `BatchStat`: hand over the second of `graphdef, params, rest",
    ),
    "its state": (
        lambda: SHARP.init(nnx.state(nnx_model())),
        "got the NNX variable `BatchStat`",
    ),
    "an optimizer too many": (
        lambda: sharp_value_and_grad(loss_fn, OPTIMIZER, ASCENT),
        "`has_aux` must be True or False, got a `GradientTransformation`; look at the order",
    ),
    "an optimizer for a mean": (
        lambda: mean_value_and_grad(loss_fn, OPTIMIZER),
        "`has_aux` must be True or False",
    ),
    "the batch too early": (
        lambda: sam_step(loss_fn, OPTIMIZER, ASCENT, BATCH),
        "`has_aux` must be True or False, got a `tuple`",
    ),
    "the optimizer first": (
        lambda: sam_step(OPTIMIZER, loss_fn, ASCENT),
        "`loss_fn` must be a function `loss_fn(params, *inputs)`, which comes first",
    ),
    "the mask first": (
        lambda: masked_ascent(MASK, ASCENT),
        "`ascent` must be an ascent such as `zsharp(rho=0.05)`, got {'w': True, 'b': False}",
    ),
    "a mask of numbers": (
        lambda: masked_ascent(ASCENT, {"w": 1, "b": 0}),
        "`mask` must be one value, a tree of bools like the parameters",
    ),
    "filtered tensors as numbers": (
        lambda: zsharp(0.05, filtered={"w": 1, "b": 0}),
        "`filtered` must be one value, a tree of bools like the parameters",
    ),
    "adaptive tensors by name": (lambda: asam(0.05, adaptive="w"), "`adaptive` must be one value"),
    "the bare optimizer's state": (
        lambda: updated_with(SHARP, state=OPTIMIZER.init(PARAMS)),
        "the state must be the one that `init` of this transformation makes",
    ),
    "gradients as grad_fn": (
        lambda: updated_with(SHARP, grad_fn=PARAMS),
        "`grad_fn` must be a function such as `jax.grad(loss_fn)` itself, got a `dict`",
    ),
    "lookahead": (
        lambda: first_state(optax.lookahead(OPTIMIZER, 5, 0.5)),
        "`optax.lookahead` keeps two copies of the parameters",
    ),
    "a line search": (
        lambda: step_with(optax.lbfgs())(first_state(optax.lbfgs()), *BATCH),
        "'grad' and 'value_fn'). The update of `sharpness_aware` hands on every extra argument",
    ),
    "a value that nobody gives": (
        lambda: updated_with(sharpness_aware(optax.polyak_sgd(), ASCENT)),
        "'value'). The update of `sharpness_aware` hands on every extra argument",
    ),
    "a schedule of vectors": (
        lambda: scheduled(sam(lambda count: jnp.ones(3))),
        "the schedule of `rho` must return a finite real scalar for each count of steps, got",
    ),
    "a schedule of nothing": (
        lambda: scheduled(zsharp(periodic_rho(lambda count: None))),
        "the schedule of `rho` must return a finite real scalar",
    ),
    "a schedule of NaN": (lambda: scheduled(asam(lambda count: np.nan)), "scalar for each"),
    "a schedule of a link": (
        lambda: scheduled(link=mix_gradients(lambda count: None)),
        "the schedule of `weight` must return a finite real scalar",
    ),
    "parameters of another name": (
        lambda: with_params(w=np.ones((4, 1), np.float32)),
        "but made for other parameters: make it with `optimizer.init(params)`",
    ),
    "parameters of another shape": (
        lambda: with_params(w=np.ones((4, 2), np.float32), b=np.ones(1, np.float32)),
        "the state of the optimizer was made for parameters of other shapes",
    ),
    "a TrainState as params": (
        lambda: first_state(params=train_state()),
        "got a `TrainState`: hand over its `.params`",
    ),
    "an integer leaf": (
        lambda: first_state(params={**PARAMS, "ids": np.arange(3)}),
        "got an array of int64 and shape (3,) at `['ids']`. Take out what is not trained",
    ),
    "an integer leaf of sharp_value_and_grad": (
        lambda: sharp_value_and_grad(loss_fn, ASCENT)({"n": 3}, ASCENT.init(PARAMS), *BATCH),
        "got a `int` at `['n']`",
    ),
    "a model with functions as params": (
        lambda: SHARP.init({**PARAMS, "activation": jax.nn.relu}),
        "got the function `relu` at `['activation']`",
    ),
    "a TrainState as state": (
        lambda: step_with()(train_state(), *BATCH),
        "`state` must be a `SamState`, which `init_state(params, optimizer, ascent)` makes",
    ),
    "params as state": (lambda: step_with()(PARAMS, *BATCH), "Got a `dict`; the batch comes"),
    "the batch as state": (
        lambda: step_with(skip_nonfinite=True)(*BATCH),
        "Got an array of float32 and shape (8, 4)",
    ),
    "zsharp itself": (lambda: first_state(ascent=zsharp), "call it, `zsharp(...)`"),
    "sgd itself": (lambda: step_with(optax.sgd), "call it, `sgd(...)`"),
    "a learning rate": (
        lambda: sharpness_aware(0.1, ASCENT),
        "must be an Optax optimizer such as `optax.sgd(0.1)`, got 0.1",
    ),
    "a radius": (
        lambda: sharp_value_and_grad(loss_fn, 0.05),
        "must be an ascent such as `zsharp(rho=0.05)`, got 0.05",
    ),
    "Flax's optimizer": (
        lambda: sharpness_aware(train_state(), ASCENT),
        "got a `TrainState`: hand over its `.tx`",
    ),
    "aux without has_aux": (
        lambda: step_with(loss_fn=lambda *batch: (loss_fn(*batch), 1.0))(first_state(), *BATCH),
        "got a pair: `(loss, aux)` needs `has_aux=True`",
    ),
    "has_aux without aux": (
        lambda: step_with(has_aux=True)(first_state(), *BATCH),
        "must return `(loss, aux)` with `has_aux=True`, got an array of float32 and shape ()",
    ),
    "a loss of each example": (
        lambda: step_with(loss_fn=lambda p, x, y: (x @ p["w"] - y) ** 2)(first_state(), *BATCH),
        "got an array of float32 and shape (8, 1); of the losses of a batch, take the mean",
    ),
    "inputs by name": (
        lambda: step_with()(first_state(), INPUTS, targets=TARGETS),
        "by position, in the order of the loss function's: `step(state, targets)`",
    ),
    "the state of another ascent": (
        lambda: with_states_of(ascent=friendly_sam(0.05)),
        "which keeps SubtractRunningMeanState, ScaleToNormState, but of another, which keeps "
        "ScaleToNormState: make it with `ascent.init(params)`",
    ),
    "the state of another optimizer": (
        lambda: with_states_of(optimizer=optax.adam(0.1)),
        "the state of the optimizer is not one of this optimizer, which keeps ScaleByAdamState",
    ),
    "a pair from grad_fn": (
        lambda: updated_with(
            SHARP,
            grad_fn=jax.value_and_grad(lambda params: loss_fn(params, *BATCH)),
        ),
        "it is a `tuple`, not a `dict`: take `jax.grad`",
    ),
    "nnx.grad as grad_fn": (updated_by_nnx, "at ['bias'] it is a `Param`, not an array"),
    "rho as text": (lambda: sam("0.05"), "`rho` must be a number, got the string '0.05'"),
    "quantile as text": (lambda: zsharp(0.05, "0.95"), "`quantile` must be a number, got the"),
    "eta as text": (lambda: asam(0.05, "0"), "`eta` must be a number, got the string '0'"),
    "decay as text": (lambda: friendly_sam(0.1, 1.0, "0"), "`decay` must be a number, got the"),
    "several radii in a trace": (
        lambda: jax.jit(lambda rhos: sam(rhos).init(PARAMS))(jnp.ones(3)),
        "`rho` must be a single number, got an array of shape (3,): for several, map over them "
        "with `jax.vmap`",
    ),
    "several decays": (
        lambda: friendly_sam(0.1, decay=[0.1, 0.2]),
        "`decay` must be a single number, got an array of shape (2,)",
    ),
    "a truth value as rho in a trace": (
        lambda: jax.jit(lambda rho: sam(rho).init(PARAMS))(True),
        "`rho` must be finite and at least 0, got",
    ),
    "an axis that is not there": (
        lambda: step_with(axis_name="batch")(first_state(), *BATCH),
        "there is no 'batch': under `jax.jit` alone leave it out",
    ),
    "groups of an axis that is not there": (
        lambda: step_with(axis_name="batch", groups=2)(first_state(), *BATCH),
        "there is no 'batch': under `jax.jit` alone leave it out",
    ),
    "a link of flat gradients": (
        lambda: step_with(FLAT)(first_state(FLAT), *BATCH),
        "the gradients that `surrogate_gap` gets must be a tree like `clean_gradients`, but it is "
        "an array of shape (5,), not a `dict`: put the link where they have the form of",
    ),
    "groups as text": (lambda: step_with(groups="2"), "`groups` must be a number, got the"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_says_what_it_got_and_the_way_out(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        make()


@pytest.mark.parametrize("options", [{}, {"skip_nonfinite": True}])
def test_a_state_is_used_once(options):
    step = step_with(loss_fn=lambda w, x: jnp.mean((w - x) ** 2), **options)
    first = first_state(params=jnp.ones(3))
    second, _ = step(first, jnp.zeros(3))
    for used, target in ((first, jnp.zeros(3)), (second, second.params)):
        with pytest.raises(ValueError, match=r"takes over the memory.*jax.tree.map\(jnp.copy"):
            step(used, target)


def test_an_array_that_a_state_holds_twice_is_named():
    leaf = jnp.ones(3)
    twice = {"a": leaf, "b": leaf}
    state = first_state(params=twice)._replace(params=twice)
    with pytest.raises(ValueError, match="or it comes twice"):
        step_with(loss_fn=lambda params: jnp.sum(params["a"] * params["b"]))(state)


def test_an_error_of_the_users_own_is_handed_on():
    def broken(*_):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        step_with(loss_fn=broken)(first_state(), *BATCH)
    failing = optax.GradientTransformation(OPTIMIZER.init, broken)
    with pytest.raises(ZeroDivisionError, match="mine"):
        step_with(failing)(first_state(), *BATCH)

    for word in ("deleted", "donated"):

        def fail(*_, word=word):
            raise ValueError(f"this row was {word}")

        with pytest.raises(ValueError, match=f"this row was {word}"):
            step_with(loss_fn=fail)(first_state(), *BATCH)


def test_an_error_while_a_step_runs_is_handed_on_though_the_state_is_gone_then():
    def fail(total):
        raise RuntimeError("out of memory")

    def loss_fn(w):
        total = jax.lax.stop_gradient(jnp.sum(w))
        return jnp.sum(w**2) + jax.pure_callback(fail, jax.ShapeDtypeStruct((), w.dtype), total)

    state = first_state(params=jnp.ones(3))
    with pytest.raises(RuntimeError, match="out of memory"):
        jax.block_until_ready(step_with(loss_fn=loss_fn)(state))
    assert state.params.is_deleted()
