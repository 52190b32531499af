"""Links in front of the optimizer, which make its gradient of those at w and at w + ε."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, network_loss, network_params
from test_golden import GOLDEN

from zsharp_jax import (
    init_state,
    look_back,
    mix_gradients,
    periodic_rho,
    sam,
    sam_step,
    sharp_value_and_grad,
    sharpness_aware,
    surrogate_gap,
)

LINKS = {"surrogate_gap": surrogate_gap, "mix_gradients": mix_gradients, "look_back": look_back}
NEUTRAL = {"surrogate_gap": 0.0, "mix_gradients": 1.0, "look_back": 0.0}
W = jnp.array([3.0, 4.0])


def vector(prefix):
    """All of the golden run's tensors of one kind, as one vector."""
    names = [name for name in GOLDEN.files if name.startswith(f"{prefix}/")]
    return np.concatenate([GOLDEN[name].ravel() for name in names])


START, WIDTHS, CENTRES = map(vector, ("initial", "a", "c"))


def golden_loss(params):
    """The loss of the golden run, of two parameters that share its vector."""
    w = jnp.concatenate([params["first"], params["second"]])
    bowls = jnp.sum(WIDTHS * (w - CENTRES) ** 2) / 2 + jnp.sum(jnp.sin(3 * w)) / 10
    return bowls + 0.05 * jnp.sum(w) ** 2 / w.size


def golden_params():
    return {"first": jnp.asarray(START[:300]), "second": jnp.asarray(START[300:])}


def steps(optimizer, ascent, count=3, **options):
    step = sam_step(golden_loss, optimizer, ascent, **options)
    state = init_state(golden_params(), optimizer, ascent)
    for _ in range(count):
        state, _ = step(state)
    return state.params


@pytest.mark.parametrize("name", LINKS)
def test_at_its_neutral_value_a_link_changes_no_bit(name):
    ascent = sam(periodic_rho(0.1, every=2))
    linked = steps(optax.chain(LINKS[name](NEUTRAL[name]), optax.adam(1e-2)), ascent)
    chex.assert_trees_all_equal(linked, steps(optax.adam(1e-2), ascent))


@pytest.mark.parametrize("name", LINKS)
def test_a_plain_step_is_that_of_the_bare_optimizer(name):
    """Without a sharp step before it, that of `look_back` is too."""
    linked = steps(optax.chain(LINKS[name](0.4), optax.sgd(0.1)), sam(0.0))
    bare = steps(optax.sgd(0.1), sam(0.0))
    chex.assert_trees_all_close(linked, bare, rtol=1e-6, atol=1e-7)


def plain_gradient(w):
    """Of the golden loss, in NumPy."""
    return WIDTHS * (w - CENTRES) + 0.3 * np.cos(3 * w) + 0.1 * np.sum(w) / w.size


def plain_run(name, count=20, rate=0.05, rho=0.5, every=3):
    """The three rules written out, with SGD; ε is zero at the steps in between."""
    w, kept = START, np.zeros_like(START)
    for step in range(count):
        g = plain_gradient(w)
        is_sharp = step % every == 0
        s = plain_gradient(w + rho * g / (np.linalg.norm(g) + 1e-8)) if is_sharp else g
        if name == "surrogate_gap":
            d = s - 0.4 * (g - (g @ s) / (s @ s) * s)
        elif name == "mix_gradients":
            d = 0.2 * g + 0.8 * s
        elif is_sharp:
            v = s - (s @ g) / (g @ g) * g
            kept, d = v / np.linalg.norm(v), s
        else:
            d = g + 0.7 * np.linalg.norm(g) * kept
        w = w - rate * d
    return w


@pytest.mark.parametrize(
    "name, way", [*((name, "sam_step") for name in LINKS), ("look_back", "sharpness_aware"),
                  ("look_back", "sharp_value_and_grad")]
)  # fmt: skip
def test_twenty_steps_are_those_written_out_in_float64(name, way):
    assert GOLDEN["steps"] == 20
    with jax.enable_x64(True):
        optimizer = optax.chain(LINKS[name](), optax.sgd(0.05))
        run = {
            "sam_step": scanned_steps,
            "sharpness_aware": own_updates,
            "sharp_value_and_grad": own_loop,
        }[way](optimizer, sam(periodic_rho(0.5, every=3)))
        found = np.concatenate(jax.tree.leaves(jax.jit(run)(golden_params())))
        np.testing.assert_allclose(found, plain_run(name), atol=1e-6)


def scanned_steps(optimizer, ascent):
    step = sam_step(golden_loss, optimizer, ascent, plain_if_zero=True)

    def run(w):
        state, infos = jax.lax.scan(
            lambda state, _: step(state), init_state(w, optimizer, ascent), length=20
        )
        assert infos.clean_gradients is None and infos.perturbation is None
        return state.params

    return run


def own_updates(optimizer, ascent):
    tx, gradient_at = sharpness_aware(optimizer, ascent), jax.grad(golden_loss)

    def step(_, carry):
        w, state = carry
        updates, state = tx.update(gradient_at(w), state, w, grad_fn=gradient_at)
        return optax.apply_updates(w, updates), state

    return lambda w: jax.lax.fori_loop(0, 20, step, (w, tx.init(w)))[0]


def own_loop(optimizer, ascent):
    ascend = sharp_value_and_grad(golden_loss, ascent, keep_gradients=True)

    def step(_, carry):
        w, opt_state, ascent_state = carry
        (_, sharp), ascent_state, info = ascend(w, ascent_state)
        updates, opt_state = optimizer.update(
            sharp,
            opt_state,
            w,
            clean_gradients=info.clean_gradients,
            perturbation=info.perturbation,
        )
        return optax.apply_updates(w, updates), opt_state, ascent_state

    return lambda w: jax.lax.fori_loop(0, 20, step, (w, optimizer.init(w), ascent.init(w)))[0]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.complex64])
@pytest.mark.parametrize("name", LINKS)
def test_zero_gradients_are_finite_and_dtypes_stay(name, dtype):
    """300 squared is more than float16 holds."""
    link, zero = LINKS[name](), jnp.zeros(2, dtype)
    one, other = jnp.array([300.0, -200.0], dtype), jnp.array([200.0, 100.0], dtype)
    other = 1j * other if dtype == jnp.complex64 else other

    @jax.jit
    def update(sharp, clean, perturbation, state):
        return link.update(sharp, state, clean_gradients=clean, perturbation=perturbation)

    state = link.init(zero)
    for gradients in ((zero, one, one), (one, zero, one), (zero, zero, zero), (one, one, zero)):
        updates, after = update(*gradients, state)
        assert updates.dtype == dtype and np.all(np.isfinite(np.complex64(updates)))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    if name == "surrogate_gap":
        np.testing.assert_array_equal(update(zero, one, one, state)[0], zero)
        updates, _ = update(one, other, one, state)
        s, g = np.complex64(one), np.complex64(other)
        expected = s - 0.4 * (g - np.vdot(s, g).real / np.vdot(s, s).real * s)
        np.testing.assert_allclose(np.complex64(updates), expected, rtol=1e-2)


def remembering():
    """An optimizer that moves nothing and keeps what it was handed."""

    def update_fn(updates, state, params=None, *, clean_gradients, perturbation, **_):
        return optax.tree.zeros_like(updates), (clean_gradients, perturbation)

    return optax.GradientTransformationExtraArgs(lambda params: (params, params), update_fn)


@pytest.mark.parametrize(
    "options", [{}, {"microbatches": 4}, {"groups": 4}, {"axis_name": "batch"}]
)
@pytest.mark.fast_for("options3")
def test_what_is_handed_over_is_that_of_the_whole_batch(options):
    optimizer, ascent, params, batch = remembering(), sam(0.1), network_params(), BATCH
    step = sam_step(network_loss, optimizer, ascent, **options)
    state = init_state(params, optimizer, ascent)
    if "axis_name" in options:
        step = jax.pmap(step, axis_name="batch", in_axes=(None, 0, 0), out_axes=None)
        batch = [array.reshape(8, -1, *array.shape[1:]) for array in BATCH]
    state, info = step(state, *batch)
    clean, perturbation = state.opt_state
    expected = jax.grad(network_loss)(params, *BATCH)
    chex.assert_trees_all_close(clean, expected, rtol=1e-5, atol=1e-6)
    if "groups" not in options:
        ratio = 0.1 / optax.tree.norm(expected)
        wanted = jax.tree.map(lambda g: ratio * g, expected)
        chex.assert_trees_all_close(perturbation, wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-5)
    else:  # the mean of four is shorter
        assert 0 < optax.tree.norm(perturbation) < info.perturbation_norm


def test_eight_devices_are_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    optimizer, ascent = optax.chain(surrogate_gap(), optax.sgd(0.1)), sam(0.1)
    step = sam_step(network_loss, optimizer, ascent)
    expected, _ = step(init_state(network_params(), optimizer, ascent), *BATCH)
    batch = jax.device_put(BATCH, jax.NamedSharding(mesh, jax.P("data")))
    params = jax.device_put(network_params(), jax.NamedSharding(mesh, jax.P()))
    found, _ = step(init_state(params, optimizer, ascent), *batch)
    chex.assert_trees_all_close(*map(jax.device_get, (found, expected)), rtol=1e-4, atol=1e-5)


def test_what_no_link_asks_for_costs_nothing():
    """The same instructions and memory as a step that hands nothing over."""
    optimizer, ascent, params = optax.adam(1e-2), sam(0.1), network_params()
    state = init_state(params, optimizer, ascent)
    handing = jax.jit(sam_step(network_loss, optimizer, ascent))

    @jax.jit
    def plain(state, *batch):
        ascend = sharp_value_and_grad(network_loss, ascent)
        (_, sharp), ascent_state, info = ascend(state.params, state.ascent_state, *batch)
        updates, opt_state = optimizer.update(sharp, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = optax.safe_increment(state.step)
        return state._replace(
            params=params, opt_state=opt_state, ascent_state=ascent_state, step=step
        ), info

    def cost(step):
        compiled = step.lower(state, *BATCH).compile()
        memory = compiled.memory_analysis()
        return compiled.as_text().count(" = "), memory.temp_size_in_bytes

    assert cost(handing) == cost(plain)


def test_a_sweep_over_an_injected_weight_is_each_run_by_itself():
    def trained(weight):
        link = optax.inject_hyperparams(mix_gradients)(weight=weight)
        return steps(optax.chain(link, optax.sgd(0.1)), sam(0.1), count=2, donate=False)

    weights = jnp.array([0.5, 1.0])
    together = jax.vmap(trained)(weights)
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(trained, weights))
    chex.assert_trees_all_close(together, apart, rtol=1e-5, atol=1e-6)


def test_a_weight_may_be_a_schedule():
    link = mix_gradients(optax.linear_schedule(1.0, 0.0, 2))
    state, found = link.init(W), []
    for _ in range(3):
        updates, state = link.update(W, state, clean_gradients=0 * W)
        found.append(float(updates[0] / W[0]))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0], atol=1e-6)


def test_frozen_layers_count_in_no_product():
    link = optax.chain(surrogate_gap(1.0), optax.sgd(1.0))
    parts = {"trained": link, "frozen": optax.set_to_zero()}
    optimizer = optax.partition(parts, {"a": "trained", "b": "frozen"})
    sharp = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([5.0])}
    clean = {"a": jnp.array([1.0, 1.0]), "b": jnp.array([7.0])}
    updates, _ = optimizer.update(
        sharp, optimizer.init(sharp), sharp, clean_gradients=clean, perturbation=clean
    )
    chex.assert_trees_all_close(updates, {"a": jnp.array([-2.0, 1.0]), "b": jnp.zeros(1)})


def test_multi_steps_around_a_link_is_refused_and_behind_it_right():
    around = optax.MultiSteps(optax.chain(surrogate_gap(), optax.sgd(0.1)), 2)
    with pytest.raises(ValueError, match=r"within `optax.MultiSteps`.*front of it"):
        steps(around.gradient_transformation(), sam(0.1), count=1)
    tx = sharpness_aware(around.gradient_transformation(), sam(0.1))
    with pytest.raises(ValueError, match=r"within `optax.MultiSteps`.*front of it"):
        tx.update(W, tx.init(W), W, grad_fn=lambda w: w)
    behind = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    twice = steps(optax.chain(surrogate_gap(), behind), sam(0.1), count=2)
    once = steps(optax.chain(surrogate_gap(), optax.sgd(0.1)), sam(0.1), count=1)
    chex.assert_trees_all_close(twice, once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LINKS)
def test_without_the_gradient_at_w_it_says_who_passes_it(name):
    optimizer = optax.chain(LINKS[name](), optax.sgd(0.1))
    said = f"`{name}` needs `clean_gradients`, which `sam_step`.*With `one_pass=True` .* no link"
    with pytest.raises(ValueError, match=said):
        optimizer.update(W, optimizer.init(W), W)
    for bad in (-0.1, float("inf")):
        with pytest.raises(ValueError, match="must be finite and at least 0"):
            LINKS[name](bad)
    with pytest.raises(TypeError, match="must be a number, got the string"):
        LINKS[name]("0.4")


@pytest.mark.parametrize("name", LINKS)
def test_shapes_in_place_of_parameters(name):
    shape = jax.ShapeDtypeStruct(W.shape, jnp.bfloat16)
    found, expected = (LINKS[name]().init(like) for like in (shape, W.astype(jnp.bfloat16)))
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_look_back_keeps_nothing_of_rounding(dtype):
    """In a round bowl g_s lies along g, and nothing is left across."""
    w = jax.random.normal(jax.random.key(3), (1000,), dtype)
    link, ascent = look_back(), sam(0.05)
    perturbation, _ = ascent.update(w, ascent.init(w))
    sharp = ((1 + 0.05 / np.linalg.norm(w)) * w).astype(dtype)
    _, state = link.update(sharp, link.init(w), clean_gradients=w, perturbation=perturbation)
    assert not np.any(state.direction)


@pytest.mark.parametrize("name", LINKS)
def test_where_squares_overflow_links_stay_finite(name):
    sharp, clean = jnp.array([2e20, 0.0]), jnp.array([1e20, 1e20])
    link = LINKS[name]()
    _, state = link.update(W, link.init(W), clean_gradients=W[::-1], perturbation=W)
    for perturbation in (W, 0 * W):
        extra = {"clean_gradients": clean, "perturbation": perturbation}
        updates, state = link.update(sharp, state, **extra)
        assert np.all(np.isfinite(updates))
        if name != "mix_gradients":
            np.testing.assert_array_equal(updates, sharp)


@pytest.mark.parametrize("name", LINKS)
def test_leaves_of_several_dtypes_keep_theirs_under_strict_promotion(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        dtypes = (jnp.float32, jnp.float64, jnp.complex64)
        tree = [jnp.arange(1, 4).astype(dtype) for dtype in dtypes]
        link = LINKS[name](jnp.float32(0.5))
        extra = {"clean_gradients": jax.tree.map(jnp.flip, tree), "perturbation": tree}
        updates, state = link.update(tree, link.init(tree), **extra)
        extra["perturbation"] = jax.tree.map(jnp.zeros_like, tree)
        updates, _ = link.update(updates, state, **extra)
        chex.assert_trees_all_equal_dtypes(updates, tree)


def test_a_bad_batch_does_not_spoil_what_look_back_keeps():
    link = look_back()
    _, state = link.update(W, link.init(W), clean_gradients=W[::-1], perturbation=W)
    _, after = link.update(W * jnp.nan, state, clean_gradients=W, perturbation=W)
    chex.assert_trees_all_equal(after, state)
