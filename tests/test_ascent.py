"""Laws of every ascent, and the formula of each against NumPy."""

import functools

import ascents
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx

from zsharp_jax import (
    asam,
    friendly_sam,
    masked_ascent,
    sam,
    scale_to_norm,
    unified_sam,
    vasso,
    zsharp,
    zsharp_reference,
)

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 3, 4, 8), "dense": (24, 10), "bias": (8,), "scale": ()}


def random_tree(scale=1.0, dtype=np.float32):
    return {name: (scale * RNG.normal(size=s)).astype(dtype) for name, s in SHAPES.items()}


GRADIENTS, PARAMS = random_tree(), random_tree()

VARIANTS = {
    **ascents.ASCENTS,
    "zsharp layer norm": lambda rho: zsharp(rho, norm_scope="layer"),
    "zsharp global percentile": lambda rho: zsharp(rho, percentile_scope="global"),
    "zsharp all tensors": lambda rho: zsharp(rho, min_ndim=0),
    "scale_to_norm by layer": lambda rho: scale_to_norm(rho, scope="layer"),
}
NORMALISED_GLOBALLY = [
    "sam",
    "friendly_sam",
    "vasso",
    "zsharp",
    "zsharp global percentile",
    "zsharp all tensors",
]
every_ascent = pytest.mark.parametrize("name", VARIANTS)


@functools.cache
def program(name):
    """One program for all values of rho, and for all gradients of a dtype."""
    return jax.jit(lambda rho, *given: VARIANTS[name](rho).update(*given))


def along(name, rho, gradients, params=PARAMS):
    state = VARIANTS[name](rho).init(params)
    return program(name)(rho, gradients, state, params)[0]


def perturbation(ascent, gradients, params=PARAMS):
    return ascent.update(gradients, ascent.init(params), params)[0]


@pytest.mark.parametrize("rho", [0.05, 3.0])
@pytest.mark.parametrize("name", NORMALISED_GLOBALLY)
def test_the_perturbation_has_length_rho(name, rho):
    length = oracles.norm(jax.tree.leaves(along(name, rho, GRADIENTS)))
    np.testing.assert_allclose(length, rho, rtol=1e-5)


@every_ascent
def test_a_zero_gradient_gives_a_zero_perturbation(name):
    zeros = optax.tree.zeros_like(GRADIENTS)
    chex.assert_trees_all_equal(along(name, 0.05, zeros), zeros)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@every_ascent
def test_a_gradient_that_is_not_finite_shows_in_the_perturbation(name, bad):
    gradients = {**GRADIENTS, "dense": GRADIENTS["dense"].copy()}
    gradients["dense"][1, 2] = bad
    found = along(name, 0.05, gradients)
    assert not np.isfinite(oracles.norm(jax.tree.leaves(found)))


def test_a_mean_that_is_nan_stays_visible():
    ascent = friendly_sam(0.05)
    state = ascent.init(GRADIENTS)
    _, state = ascent.update(jax.tree.map(lambda g: g * np.nan, GRADIENTS), state)
    found, _ = ascent.update(GRADIENTS, state)
    assert np.isnan(oracles.norm(found.values()))


@pytest.mark.parametrize(
    "make, delta",
    [
        (sam, 1e-8),
        (zsharp, 1e-8),
        (functools.partial(unified_sam, mix=1.0), 1e-8),
        (zsharp_reference, 1e-12),
    ],
)
def test_delta_is_that_of_its_source(make, delta):
    gradients = {"kernel": jnp.zeros((10, 10)).at[0, 0].set(delta)}
    found = perturbation(make(1.0), gradients)
    np.testing.assert_allclose(found["kernel"][0, 0], 0.5, rtol=1e-5)


@every_ascent
def test_a_zero_rho_gives_a_zero_perturbation(name):
    zeros = optax.tree.zeros_like(GRADIENTS)
    chex.assert_trees_all_equal(along(name, 0.0, GRADIENTS), zeros)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@every_ascent
@pytest.mark.fast_for("zsharp-*", "friendly_sam-float16")
def test_structure_and_dtype_are_those_of_the_gradient(name, dtype):
    gradients, params = random_tree(dtype=dtype), random_tree(dtype=dtype)
    found = along(name, 0.05, gradients, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, gradients)


@pytest.mark.parametrize("scale", [300.0, 1e-4])
@every_ascent
def test_float16_gradients_neither_overflow_nor_vanish(name, scale):
    gradients = random_tree(scale, np.float16)
    exact = {leaf_name: leaf.astype(np.float32) for leaf_name, leaf in gradients.items()}
    found = along(name, 0.05, gradients)
    chex.assert_trees_all_close(
        jax.tree.map(np.float32, found),
        along(name, 0.05, exact),
        rtol=2e-3,
        atol=1e-6,
    )


@every_ascent
@pytest.mark.fast_for("zsharp", "friendly_sam")
def test_the_state_keeps_its_shape_and_nothing_compiles_twice(name):
    ascent = VARIANTS[name](0.05)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(ascent.update, n=1))
    state = ascent.init(PARAMS)
    for _ in range(3):
        _, new_state = update(GRADIENTS, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        state = new_state


@every_ascent
@pytest.mark.fast_for("zsharp", "vasso")
def test_a_schedule_of_rho_counts_the_ascents(name):
    lengths = jnp.array([0.1, 0.2, 0.0, -0.5, 0.4])
    scheduled = VARIANTS[name](lambda count: lengths[count])
    state, update = scheduled.init(PARAMS), jax.jit(scheduled.update)
    fixed_state = VARIANTS[name](1.0).init(PARAMS)
    for rho in [0.1, 0.2, 0.0, 0.0, 0.4]:  # a negative length counts as 0
        gradients = random_tree()
        found, state = update(gradients, state, PARAMS)
        expected, fixed_state = program(name)(rho, gradients, fixed_state, PARAMS)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


@every_ascent
@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), None])
def test_a_bad_rho_is_refused(name, rho):
    with pytest.raises(ValueError, match=rf"`rho` must be finite and at least 0, got {rho!r}"):
        VARIANTS[name](rho)


@pytest.mark.parametrize("rho", [1, np.float32(1), jnp.asarray(1), jnp.asarray(1, jnp.bfloat16)])
def test_every_kind_of_number_is_a_rho(rho):
    chex.assert_trees_all_equal(
        perturbation(sam(rho), GRADIENTS), perturbation(sam(1.0), GRADIENTS)
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: asam(0.5, eta=-1.0), "`eta` must be finite and at least 0, got -1.0"),
        (lambda: friendly_sam(0.1, sigma=-1), "`sigma` must be finite and at least 0, got -1"),
        (lambda: friendly_sam(0.1, decay=1.5), r"`decay` must lie in \[0, 1\], got 1.5"),
        (lambda: unified_sam(0.1, mix=1.5), r"`mix` must lie in \[0, 1\], got 1.5"),
        (lambda: vasso(0.1, theta=-1), r"`theta` must lie in \[0, 1\], got -1"),
        (lambda: scale_to_norm(0.1, scope="leaf"), '`scope` must be "global" or "layer", got'),
        (lambda: scale_to_norm(0.1, delta=-1e-8), "`delta` must be finite and at least 0"),
        (lambda: zsharp(0.1, 1.0), r"`quantile` must lie in \[0, 1\), got 1.0"),
        (lambda: zsharp(0.1, norm_scope="leaf"), "`norm_scope` must be"),
        (lambda: zsharp(0.1, percentile_scope="leaf"), "`percentile_scope` must be"),
        (lambda: zsharp_reference(0.1, -0.5), r"`quantile` must lie in \[0, 1\), got -0.5"),
    ],
)
def test_other_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.95])
def test_zsharp_is_the_papers_formula(quantile):
    found = perturbation(zsharp(0.05, quantile), GRADIENTS)
    expected = oracles.zsharp(GRADIENTS, 0.05, quantile)
    chex.assert_trees_all_close(found, jax.tree.map(np.float32, expected), rtol=1e-5)


def test_zsharp_with_one_quantile_over_all_layers():
    masks = oracles.global_keep_masks([GRADIENTS["conv"], GRADIENTS["dense"]], 0.9)
    found = perturbation(zsharp(0.05, 0.9, percentile_scope="global"), GRADIENTS)
    np.testing.assert_array_equal(found["conv"] != 0, masks[0])
    np.testing.assert_array_equal(found["dense"] != 0, masks[1])


def test_zsharp_falls_back_to_sam_where_nothing_is_kept():
    constant = {"kernel": jnp.full((4, 4), 0.3), "bias": jnp.zeros(3)}
    for ascent in (zsharp(0.05), zsharp(0.05, percentile_scope="global"), zsharp_reference(0.05)):
        chex.assert_trees_all_close(
            perturbation(ascent, constant), perturbation(sam(0.05), constant), rtol=1e-6
        )


def test_zsharp_falls_back_layer_by_layer_where_it_normalises_so():
    gradients = {"constant": jnp.full((4, 4), 0.3), "dense": GRADIENTS["dense"]}
    found = perturbation(zsharp(0.05, norm_scope="layer"), gradients)
    np.testing.assert_allclose(found["constant"], 0.05 / 4, rtol=1e-5)
    assert np.count_nonzero(found["dense"]) == oracles.kept_count(240, 0.95)
    for leaf in found.values():
        np.testing.assert_allclose(oracles.norm([leaf]), 0.05, rtol=1e-5)


def test_the_reference_brings_every_filtered_tensor_to_rho():
    found = perturbation(zsharp_reference(0.05), GRADIENTS)
    whole = oracles.norm(GRADIENTS.values())
    for name in ("conv", "dense"):
        np.testing.assert_allclose(oracles.norm([found[name]]), 0.05, rtol=1e-5)
    for name in ("bias", "scale"):
        np.testing.assert_allclose(found[name], 0.05 * GRADIENTS[name] / whole, rtol=1e-5)


def test_asam_measures_in_units_of_the_weights():
    found = perturbation(asam(0.5, eta=0.1), GRADIENTS)
    unit = {name: np.abs(w) + 0.1 if name != "bias" else 1.0 for name, w in PARAMS.items()}
    length = oracles.norm([unit[name] * g for name, g in GRADIENTS.items()])
    for name, gradient in GRADIENTS.items():
        np.testing.assert_allclose(found[name], 0.5 * unit[name] ** 2 * gradient / length, 1e-5)


def test_asam_knows_a_bias_however_deep_it_lies():
    params = {"layer": {"bias": jnp.array([5.0]), "kernel": jnp.array([5.0])}}
    gradients = jax.tree.map(jnp.ones_like, params)
    found = perturbation(asam(1.0, eta=0.0), gradients, params)["layer"]
    np.testing.assert_allclose(found["kernel"] / found["bias"], 25.0, rtol=1e-5)


def test_asam_knows_a_bias_of_nnx_and_no_key_that_is_only_called_value():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, 5.0), params)
    found = perturbation(asam(1.0, eta=0.0), jax.tree.map(jnp.ones_like, params), params)
    kernel, bias = (found[name].get_value() for name in ("kernel", "bias"))
    np.testing.assert_allclose(kernel[0, 0] / bias[0], 25.0, rtol=1e-5)

    params = {"bias": {"value": jnp.array([5.0])}, "kernel": jnp.array([5.0])}
    found = perturbation(asam(1.0, eta=0.0), jax.tree.map(jnp.ones_like, params), params)
    np.testing.assert_allclose(found["bias"]["value"], found["kernel"])


def test_asam_adds_eta_in_float32():
    params, gradients = {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.array([1.0, 1.0])}
    state = asam(1.0).init(params)
    # bfloat16 holds no 1.001; the weight of 0 shows what eta alone is.
    found, _ = asam(1.0, eta=0.001).update(
        {**gradients, "v": jnp.array([1.0])}, state, {**params, "v": jnp.array([0.0])}
    )
    np.testing.assert_allclose(found["w"][0] / found["v"][0], 1.001**2 / 0.001**2, rtol=1e-5)


def test_asam_needs_params():
    with pytest.raises(ValueError, match="`asam` measures in units of the weights and needs"):
        asam(0.5).update(GRADIENTS, asam(0.5).init(PARAMS))


def test_friendly_sam_subtracts_the_running_mean():
    ascent, running_mean = friendly_sam(0.05, sigma=0.7, decay=0.6), None
    state = ascent.init(PARAMS)
    for _ in range(4):
        gradients = random_tree()
        found, state = ascent.update(gradients, state)
        if running_mean is None:
            news, running_mean = gradients, gradients
        else:
            news = jax.tree.map(lambda g, m: g - 0.7 * m, gradients, running_mean)
            running_mean = jax.tree.map(lambda g, m: 0.6 * m + 0.4 * g, gradients, running_mean)
        length = oracles.norm(news.values())
        expected = {name: 0.05 * leaf / length for name, leaf in news.items()}
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


def test_unified_sam_is_the_papers_formula_and_sam_where_all_is_normalised():
    norm = oracles.norm(GRADIENTS.values())
    found = perturbation(unified_sam(0.5, mix=0.3), GRADIENTS)
    expected = {name: 0.5 * (0.7 + 0.3 / norm) * g for name, g in GRADIENTS.items()}
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    found = perturbation(unified_sam(0.5, mix=1), GRADIENTS)
    chex.assert_trees_all_equal(found, perturbation(sam(0.5), GRADIENTS))


def test_a_mix_beyond_1_counts_as_1():
    """It would go downhill where the gradient is large."""
    found = perturbation(unified_sam(0.5, mix=lambda count: 3.0), GRADIENTS)
    chex.assert_trees_all_equal(found, perturbation(unified_sam(0.5, mix=1.0), GRADIENTS))


def test_a_schedule_of_the_mix():
    ascent = unified_sam(0.5, mix=lambda count: jnp.array([1.0, 0.0])[count])
    state = ascent.init(PARAMS)
    first, state = ascent.update(GRADIENTS, state)
    second, _ = ascent.update(GRADIENTS, state)
    chex.assert_trees_all_equal(first, perturbation(sam(0.5), GRADIENTS))
    chex.assert_trees_all_close(second, jax.tree.map(lambda g: 0.5 * g, GRADIENTS), rtol=1e-6)


@pytest.mark.parametrize("theta", [0.4, 1.0])
def test_vasso_follows_the_running_mean(theta):
    ascent, mean = vasso(0.05, theta), None
    state = ascent.init(PARAMS)
    for _ in range(4):
        gradients = random_tree()
        found, state = ascent.update(gradients, state)
        mean = mean or gradients
        mean = jax.tree.map(lambda d, g: (1 - theta) * d + theta * g, mean, gradients)
        length = oracles.norm(mean.values())
        expected = {name: 0.05 * leaf / length for name, leaf in mean.items()}
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
    if theta == 1:
        chex.assert_trees_all_equal(found, perturbation(sam(0.05), gradients))


def test_asam_adapts_where_it_is_told_to():
    params = [jnp.array([[5.0]]), jnp.array([5.0])]
    ones = jax.tree.map(jnp.ones_like, params)
    for adaptive in ([True, False], lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)):
        kernel, bias = perturbation(asam(1.0, eta=0.0, adaptive=adaptive), ones, params)
        np.testing.assert_allclose(kernel[0, 0] / bias[0], 25.0, rtol=1e-5)


@every_ascent
@pytest.mark.fast_for("zsharp", "vasso")
def test_strict_promotion_and_shapes_in_place_of_parameters(name):
    gradients = {**GRADIENTS, "narrow": jnp.ones((4, 4), jnp.bfloat16).at[0, 0].set(3)}
    frozen = {**gradients, "table": jnp.ones(3, jnp.float8_e4m3fn)}
    ascent = VARIANTS[name](0.05)
    masked = masked_ascent(ascent, {**dict.fromkeys(gradients, True), "table": False})

    @jax.jit
    def both(gradients, frozen):
        state = ascent.init(jax.eval_shape(lambda: gradients))
        alone, _ = ascent.update(gradients, state, gradients)
        return alone, masked.update(frozen, masked.init(frozen), frozen)[0]

    with jax.numpy_dtype_promotion("strict"):
        alone, found = both(gradients, frozen)
    assert np.all(found.pop("table") == 0)
    chex.assert_trees_all_close(found, alone, rtol=1e-6)


@every_ascent
@pytest.mark.fast_for("zsharp", "asam")
def test_a_derivative_through_a_gradient_of_zero_is_finite(name):
    def length_of(scale):
        gradients = {"kernel": scale * PARAMS["dense"], "other": 0 * scale * PARAMS["conv"]}
        found = perturbation(VARIANTS[name](0.05), gradients, gradients)
        return sum(jnp.sum(leaf) for leaf in found.values())

    derivative = jax.jit(jax.grad(length_of))
    for scale in (0.0, 1.0):
        assert np.isfinite(derivative(scale))


def test_the_running_mean_keeps_its_dtype():
    with jax.enable_x64(True):
        ascent = friendly_sam(0.05, decay=np.float64(0.9))
        state = ascent.init(GRADIENTS)
        _, moved = ascent.update(GRADIENTS, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)


def test_trees_without_leaves_and_with_none_leaves():
    for name, make in VARIANTS.items():
        ascent = make(0.05)
        assert perturbation(ascent, {}, {}) == {}, name
        tree = {"a": None, "b": jnp.ones((2, 2))}
        assert perturbation(ascent, tree, tree)["a"] is None, name
