"""What stands as optimizer or ascent and cannot be one is refused, and nothing else is."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsharp_jax import (
    friendly_sam,
    init_state,
    look_back,
    masked_ascent,
    mix_gradients,
    periodic_rho,
    sam,
    sam_step,
    scale_to_norm,
    sharp_value_and_grad,
    sharpness_aware,
    surrogate_gap,
    zscore_filter,
    zsharp,
    zsharp_reference,
)

PARAMS = {"w": np.ones((4, 1), np.float32), "b": np.zeros(1, np.float32)}
BATCH = (np.ones((8, 4), np.float32), np.ones((8, 1), np.float32))
OPTIMIZER, ASCENT = optax.sgd(0.1), sam(0.05)


def loss_fn(params, inputs, targets):
    return jnp.mean((inputs @ params["w"] + params["b"][None] - targets) ** 2)


def first_state(optimizer=OPTIMIZER, ascent=ASCENT, params=PARAMS):
    return init_state(params, optimizer, ascent)


def take_up(optimizer, ascent):
    """What each way to step does before it computes anything."""
    return {
        "init_state": lambda: init_state(PARAMS, optimizer, ascent),
        "sharpness_aware": lambda: sharpness_aware(optimizer, ascent).init(PARAMS),
        "sam_step": lambda: sam_step(loss_fn, optimizer, ascent)(first_state(), *BATCH),
        "sharp_value_and_grad": lambda: sharp_value_and_grad(loss_fn, ascent)(
            PARAMS, ascent.init(PARAMS), *BATCH
        ),
    }


WAYS = list(take_up(OPTIMIZER, ASCENT))
MASK = {"w": True, "b": False}
ADVERSARY = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))  # of `optax.contrib.sam`
TURNED = optax.chain(sam(0.05), optax.scale(-1.0))
DOWNHILL = [optax.adam(1e-2), ADVERSARY, optax.scale(-0.1), TURNED, masked_ascent(TURNED, MASK)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ascent", DOWNHILL)
def test_an_ascent_that_goes_downhill_is_refused(way, ascent):
    with pytest.raises(ValueError, match=r"`ascent` must go uphill.*swap the two.*`sam\(rho\)`"):
        take_up(OPTIMIZER, ascent)[way]()


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.bfloat16, jnp.complex64])
def test_an_ascent_that_goes_downhill_is_refused_whatever_the_dtype(dtype):
    with pytest.raises(ValueError, match="`ascent` must go uphill"):
        first_state(ascent=optax.scale(-0.1), params={"w": jnp.ones((4, 1), dtype)})


@pytest.mark.parametrize("way", WAYS)
def test_optimizer_and_ascent_cannot_be_swapped(way):
    with pytest.raises(ValueError, match="swap the two"):
        take_up(ASCENT, OPTIMIZER)[way]()


UNSIGNED_WARM_UP = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: count / 10))


@pytest.mark.parametrize("optimizer", [optax.scale_by_adam(), sam(0.05), UNSIGNED_WARM_UP])
def test_an_optimizer_that_goes_uphill_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"must go downhill.*optax.scale_by_learning_rate"):
        first_state(optimizer)


MIDDLE = {"a": True, "b": False, "z": True}  # a trial of the first and the last leaf sees no False
MASKED_AT_THE_END = {
    "ascent": (OPTIMIZER, optax.chain(optax.clip(9.0), optax.masked(sam(0.05), MIDDLE))),
    "filter": (OPTIMIZER, optax.chain(zscore_filter(0.5), optax.masked(sam(0.05), MIDDLE))),
    "few kept": (
        OPTIMIZER,
        optax.chain(zscore_filter(0.9), optax.masked(scale_to_norm(0.1), MIDDLE)),
    ),
    "optimizer": (optax.chain(optax.clip(9.0), optax.masked(optax.adam(0.1), MIDDLE)), ASCENT),
    "rate": (optax.chain(optax.scale_by_adam(), optax.masked(optax.scale(-0.1), MIDDLE)), ASCENT),
    "named": (
        OPTIMIZER,
        optax.named_chain(("clip", optax.clip(9.0)), ("sam", optax.masked(sam(0.05), MIDDLE))),
    ),
}


@pytest.mark.parametrize("chains", MASKED_AT_THE_END.values(), ids=MASKED_AT_THE_END)
def test_a_mask_at_the_end_of_a_chain_that_hands_on_the_gradient_is_refused(chains):
    with pytest.raises(ValueError, match=r"raw gradient.*use `(masked_ascent|optax.partition)`"):
        init_state({name: np.ones((4, 4)) for name in MIDDLE}, *chains)


def test_a_mask_at_the_end_of_a_chain_that_has_an_end_already_is_none_of_them():
    frozen = optax.freeze({"w": False, "b": True})
    decay = optax.masked(optax.add_decayed_weights(-1e-4), MASK)
    state = first_state(optax.chain(OPTIMIZER, decay, frozen), optax.chain(ASCENT, frozen))
    assert state.step == 0
    for piece in (optax.clip_by_global_norm(0.05), zscore_filter(0.5)):
        assert first_state(ascent=optax.chain(piece, frozen)).step == 0


LINKS = [surrogate_gap(), mix_gradients(), look_back()]


@pytest.mark.parametrize("link", LINKS, ids=["gap", "mix", "look_back"])
def test_a_link_at_the_end_is_refused(link):
    named = optax.named_chain(("adamw", optax.adamw(1e-3)), ("link", link))
    for optimizer in (link, optax.chain(optax.adamw(1e-3), link), named):
        with pytest.raises(ValueError, match="put the link in front"):
            first_state(optimizer)


UPHILL = {
    "normalised": optax.chain(optax.contrib.normalize(), optax.scale(0.05)),
    "momentum": optax.chain(optax.trace(0.9), optax.scale(0.01)),
    "the adversary, turned": optax.chain(ADVERSARY, optax.scale(-1.0)),
    "filtered": optax.chain(zscore_filter(0.5), scale_to_norm(0.1)),
    "bare": optax.identity(),
    "none": optax.set_to_zero(),
    "noise alone": optax.chain(optax.set_to_zero(), optax.add_noise(1.0, 0.0, 0)),
    "injected": optax.inject_hyperparams(sam)(rho=0.1),
    "partition": optax.partition({1: sam(0.1), 2: optax.set_to_zero()}, {"w": 1, "b": 2}),
    "masked": masked_ascent(optax.scale(0.1), {"w": True, "b": False}),
    "at times": zsharp(periodic_rho(0.1, every=2, start=5)),
}


@pytest.mark.parametrize("ascent", UPHILL.values(), ids=UPHILL)
def test_a_chain_of_the_users_own_is_an_ascent(ascent):
    assert first_state(ascent=ascent).step == 0


DEPRECATED = {"optimistic_adam", "dpsgd"}  # or, the second one, made of what is
OPTAXS = {
    f"{module.__name__}.{name}": maker
    for module in (optax, optax.contrib)
    for name, maker in vars(module).items()
    if inspect.isfunction(maker) and "learning_rate" in inspect.signature(maker).parameters
    if not name.startswith(("scale_by", "_")) and name not in DEPRECATED
}
NEED = {
    "noisy_sgd": {"key": 0},
    "schedule_free": {"base_optimizer": optax.sgd(0.1)},
}


@pytest.mark.parametrize("name", OPTAXS)
def test_every_optimizer_of_optax_is_one(name):
    rate = {"learning_rate": optax.linear_schedule(0.0, 0.1, 10) if name == "optax.sgd" else 0.1}
    optimizer = OPTAXS[name](**rate, **NEED.get(name.split(".")[-1], {}))
    assert init_state({"w": np.ones((4, 4), np.float32)}, optimizer, ASCENT).step == 0


def by_leaf(**of_each):
    return optax.partition(of_each, {"w": "w", "b": "b"})


OTHER_OPTIMIZERS = {
    "several steps": optax.MultiSteps(optax.sgd(0.1), every_k_schedule=4),
    "frozen": by_leaf(w=optax.sgd(0.1), b=optax.set_to_zero()),
    "up and down": by_leaf(w=optax.sgd(0.1), b=optax.scale(0.1)),
    "mostly noise": optax.chain(optax.sgd(1e-3), optax.add_noise(10.0, 0.0, 0)),
    "sharpness-aware": sharpness_aware(optax.sgd(0.1), sam(0.05)),
}


@pytest.mark.parametrize("optimizer", OTHER_OPTIMIZERS.values(), ids=OTHER_OPTIMIZERS)
def test_what_goes_downhill_or_cannot_be_told_is_an_optimizer(optimizer):
    assert first_state(optimizer).step == 0


def test_the_trial_leaves_abstract_and_mapped_initialisation_as_they_are():
    def state_at(rate):
        return init_state(PARAMS, optax.adam(rate), friendly_sam(0.05))

    jax.eval_shape(lambda: init_state(PARAMS, optax.adam(0.1), optax.scale(0.1)))
    assert jax.vmap(state_at)(jnp.array([0.1, 0.2])).step.shape == (2,)
    with pytest.raises(ValueError, match="must go uphill"):
        jax.jit(lambda: init_state(PARAMS, optax.sgd(0.1), optax.sgd(0.1)))()


def test_what_was_right_for_one_tree_is_tried_with_another():
    def is_named_w(params):
        return {name: name == "w" for name in params}

    chains = {
        "optimizer": (optax.masked(OPTIMIZER, is_named_w), ASCENT),
        "ascent": (OPTIMIZER, optax.masked(scale_to_norm(0.1), is_named_w)),
    }
    for wrong, pair in chains.items():
        assert init_state({"w": np.ones((4, 4))}, *pair).step == 0
        with pytest.raises(ValueError, match=f"at the end of `{wrong}` hands on the raw gradient"):
            init_state({name: np.ones((4, 4)) for name in MIDDLE}, *pair)


def test_the_trial_leaves_no_effects():
    called = []

    def seen(gradients, params):
        jax.debug.callback(lambda: called.append(1))
        return gradients

    optimizer = optax.chain(optax.stateless(seen), OPTIMIZER)
    assert first_state(optimizer).step == 0
    jax.effects_barrier()
    assert not called


def test_a_step_asks_nothing_of_an_ascent_that_is_known():
    """Those of the library go uphill; others are tried once."""
    tried = []

    def update(gradients, state, params=None):
        tried.append(1)
        return gradients, state

    ascent = optax.GradientTransformation(lambda params: (), update)
    ascend = sharp_value_and_grad(loss_fn, ascent)
    for _ in range(3):
        ascend(PARAMS, (), *BATCH)
    assert len(tried) == 1 + 3
    assert first_state(ascent=zsharp_reference(0.1)).ascent_state.ascents == 0
