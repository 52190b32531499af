"""The mask is NumPy's, for every kind of tensor, dtype and size, in both forms of the filter."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zsharp_jax import zscore_filter
from zsharp_jax._selection._filter import kept
from zsharp_jax._selection._in_place import thresholds_in_place
from zsharp_jax._selection._rows import thresholds_in_rows
from zsharp_jax._selection._threshold import Request

RNG = np.random.default_rng(0)
# Most of one shape: they compile as one.
TENSORS = {
    "normal": RNG.normal(size=(20, 20)),
    "constant": np.full((20, 20), 0.1),
    "tied": RNG.integers(-2, 3, size=(20, 20)),
    "two values": np.repeat([[1.0], [3.0]], 200, axis=1).reshape(20, 20),
    "small": RNG.normal(size=(20, 20)) * 1e-25,
    "large": RNG.normal(size=(20, 20)) * 1e4,
    "zero": np.zeros((20, 20)),
    "heavy tails": RNG.standard_t(2, size=(3, 3, 8, 16)),
    "one entry": np.array([[3.0]]),
    "two entries": np.array([[3.0, -1.0]]),
    "one axis": RNG.normal(size=1025),
    "no axis": np.array(2.0),
}
FORMS = {
    "in place": functools.partial(thresholds_in_place, folded=True),
    "in place on a mesh": functools.partial(thresholds_in_place, folded=False),
    "in rows": thresholds_in_rows,
}
every_form = pytest.mark.parametrize("form", FORMS)


@functools.cache  # one compiled filter for all examples of a shape
def compiled(form, *asked):
    def keep(gradients):
        leaves, treedef = jax.tree.flatten(gradients)
        request = Request(*asked, stacked=(0,) * len(leaves))
        return jax.tree.unflatten(treedef, kept(leaves, request, FORMS[form]))

    return jax.jit(keep)


def assert_keeps(found, gradient, mask):
    # Entries keep their gradient to the bit, so the mask can be read off the result.
    expected = np.where(mask, gradient, 0).astype(gradient.dtype)
    assert found.dtype == gradient.dtype
    assert np.asarray(found).tobytes() == expected.tobytes()


@every_form
@pytest.mark.parametrize(
    "by_zscore, dtype, quantile",
    [
        (True, np.float32, 0.0),
        (True, np.float32, 0.95),
        (True, jnp.bfloat16, 0.95),
        (True, np.float16, 0.6),
        (False, np.float32, 0.95),
    ],
)
@pytest.mark.fast_for("True-float32-0.95-*", "True-bfloat16-*")
def test_the_mask_of_each_layer_is_numpys(form, by_zscore, dtype, quantile):
    gradients = {name: tensor.astype(dtype) for name, tensor in TENSORS.items()}
    found = compiled(form, quantile, "layer", by_zscore)(gradients)
    oracle = oracles.keep_mask if by_zscore else oracles.magnitude_mask
    for name, gradient in gradients.items():
        assert_keeps(found[name], gradient, oracle(gradient, quantile))


@every_form
@pytest.mark.parametrize("by_zscore", [True, False], ids=["zscore", "magnitude"])
@pytest.mark.fast_for("zscore-*")
def test_one_quantile_over_all_layers(form, by_zscore):
    gradients = [TENSORS["normal"] * 1e-30, TENSORS["heavy tails"] * 1e-3, TENSORS["constant"]]
    gradients = [gradient.astype(np.float32) for gradient in gradients]
    found = compiled(form, 0.8, "global", by_zscore)(gradients)
    oracle = oracles.global_keep_masks if by_zscore else oracles.global_magnitude_masks
    for each, gradient, mask in zip(found, gradients, oracle(gradients, 0.8), strict=True):
        assert_keeps(each, gradient, mask)


@every_form
def test_float32_and_float64_layers_share_one_search(form):
    with jax.enable_x64(True):
        gradients = [jnp.asarray(TENSORS["normal"], dtype) for dtype in (np.float32, np.float64)]
        for each, gradient in zip(
            compiled(form, 0.95, "layer", True)(gradients), gradients, strict=True
        ):
            assert_keeps(each, gradient, oracles.keep_mask(np.asarray(gradient), 0.95))


@every_form
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_layer_with_nan_passes_whole(form, scope):
    bad = TENSORS["normal"].astype(np.float32)
    bad[3, 4] = np.nan
    good = TENSORS["normal"].astype(np.float32)
    found = compiled(form, 0.5, scope, True)([bad, good])
    np.testing.assert_array_equal(found[0], bad)
    if scope == "layer":
        assert_keeps(found[1], good, oracles.keep_mask(good, 0.5))


# Sums of these in float32 are exact, so that float32 and float64 agree about ties.
DYADIC = st.integers(-(2**10), 2**10).map(lambda numerator: numerator / 64)
SHAPES = st.sampled_from([(2, 1), (4, 4, 2)])
QUANTILES = st.sampled_from([0.0, 0.95])


@every_form
@given(gradient=hnp.arrays(np.float32, SHAPES, elements=DYADIC), quantile=QUANTILES)
@settings(max_examples=50, deadline=None)
def test_the_mask_is_numpys_in_float64_where_sums_are_exact(form, gradient, quantile):
    found = compiled(form, quantile, "layer", True)(gradient)
    assert_keeps(found, gradient, oracles.keep_mask(gradient, quantile))


FINITE = st.floats(-1e15, 1e15, allow_subnormal=False)


@every_form
@given(gradient=hnp.arrays(np.float64, SHAPES, elements=FINITE), quantile=QUANTILES)
@settings(max_examples=50, deadline=None)
def test_the_mask_is_numpys_but_within_rounding_of_the_threshold(form, gradient, quantile):
    with jax.enable_x64(True):
        found = np.asarray(compiled(form, quantile, "layer", True)(gradient)) != 0
    deviation = np.abs(gradient - gradient.mean())
    threshold = np.quantile(deviation, quantile)
    rounding = 8 * np.finfo(np.float64).eps * np.max(np.abs(gradient)) + 1e-300
    expected = (deviation > threshold) & (gradient != 0)
    assert np.all((found == expected) | (np.abs(deviation - threshold) <= rounding))


@every_form
def test_entries_below_the_smallest_normal_number_may_count_as_zero(form):
    gradient = (RNG.normal(size=(20, 20)) * 10.0 ** RNG.integers(-43, -33, (20, 20))).astype("f4")
    gradient -= gradient.mean()
    found = compiled(form, 0.9, "layer", True)(gradient)
    assert_keeps(found, gradient, oracles.keep_mask(gradient, 0.9))


@every_form
def test_the_count_is_exact_without_ties(form):
    gradients = {
        size: np.random.default_rng(size).normal(size=size) for size in (3, 1023, 2**16 + 1)
    }
    with jax.enable_x64(True):
        for size, each in compiled(form, 0.5, "layer", True)(gradients).items():
            assert np.count_nonzero(each) == oracles.kept_count(size, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["in place", "in rows"])
def test_large_tensors(form):
    size = 2**25 + 1
    gradient = np.random.default_rng(size).standard_normal(size, np.float32)
    # Other tests do without LLVM's optimizations. This one would take half a minute.
    optimized = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    keep = compiled(form, 0.95, "layer", True).lower(gradient).compile(optimized)
    found = np.asarray(keep(gradient)) != 0
    deviation = np.abs(gradient - gradient.mean(dtype=np.float64))
    threshold = np.quantile(deviation, 0.95)
    # float32 has few numbers there: some lie too near the threshold to tell.
    undecided = np.abs(deviation - threshold) <= 2 * np.finfo(np.float32).eps * threshold
    assert undecided.sum() < 1e-6 * size + 3
    assert np.all((found == (deviation > threshold)) | undecided)


@every_form
def test_mapped_in_a_loop_on_each_device(form):
    """`scan`, `vmap` and `shard_map` at once: each device filters four batches of its own."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    gradients = RNG.normal(size=(8, 2, 3, 6, 6)).astype(np.float32)
    request = Request(0.8, "layer", by_zscore=True, stacked=(0,))

    def in_turn(own):
        keep = jax.vmap(lambda gradient: kept([gradient], request, FORMS[form])[0])
        return jax.lax.scan(lambda _, each: (None, keep(each)), None, own[0])[1][None]

    over_data = {"in_specs": jax.P("data"), "out_specs": jax.P("data")}
    mapped = jax.shard_map(in_turn, mesh=mesh, **over_data)
    found = jax.jit(mapped)(gradients)
    for place in np.ndindex(8, 2, 3):
        mask = oracles.keep_mask(gradients[place], 0.8)
        assert_keeps(np.asarray(found)[place], gradients[place], mask)


def filtered(gradients, quantile, **kwargs):
    transformation = zscore_filter(quantile, **kwargs)
    return transformation.update(gradients, transformation.init(gradients))[0]


def test_the_scale_of_a_layer_does_not_matter():
    gradient = TENSORS["normal"].astype(np.float32)
    for scope in ("layer", "global"):
        mask = np.asarray(filtered([gradient], 0.9, scope=scope)[0]) != 0
        for scale in (2.0**-100, 2.0**40):
            scaled = np.asarray(filtered([gradient * np.float32(scale)], 0.9, scope=scope)[0]) != 0
            np.testing.assert_array_equal(scaled, mask)


def test_tensors_with_few_axes_pass_unfiltered():
    gradients = {"bias": jnp.arange(1.0, 6.0), "scale": jnp.array(2.0), "kernel": jnp.eye(4)}
    found = filtered(gradients, 0.9)
    np.testing.assert_array_equal(found["bias"], gradients["bias"])
    np.testing.assert_array_equal(found["scale"], gradients["scale"])
    assert np.count_nonzero(found["kernel"]) == 0  # a tie: four entries stand out alike
    assert np.count_nonzero(filtered(gradients, 0.5, min_ndim=1)["bias"]) == 2


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_gradients_that_are_constants_of_a_program(make, scope):
    """XLA may work them out when it compiles: the mask is NumPy's all the same."""
    gradients = [np.float32(TENSORS[name]) for name in ("normal", "heavy tails", "two entries")]
    constants = [make(gradient) for gradient in gradients]
    found = jax.jit(lambda: filtered(constants, 0.8, scope=scope))()
    masks = [oracles.keep_mask(gradient, 0.8) for gradient in gradients]
    if scope == "global":
        masks = oracles.global_keep_masks(gradients, 0.8)
    for each, gradient, mask in zip(found, gradients, masks, strict=True):
        assert_keeps(each, gradient, mask)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_empty_tensors_none_leaves_and_mixed_dtypes_survive(scope):
    gradients = {
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "half": jnp.asarray(TENSORS["normal"], jnp.bfloat16),
        "single": jnp.asarray(TENSORS["normal"], jnp.float32),
    }
    found = filtered(gradients, 0.5, scope=scope)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, gradients)


@pytest.mark.parametrize("quantile", [-0.1, 1.0, 1.5, float("nan"), None, True])
def test_a_quantile_outside_its_range_is_refused(quantile):
    with pytest.raises(ValueError, match=r"`quantile` must lie in \[0, 1\), got"):
        zscore_filter(quantile)


def test_a_traced_quantile_is_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"`quantile` must be a Python number.*static_args"):
        zscore_filter(jnp.asarray(0.95))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"scope": "tensor"}, '`scope` must be "layer" or "global", got \'tensor\''),
        ({"min_ndim": -1}, "`min_ndim` must be an integer of at least 0, got -1"),
        ({"min_ndim": 1.5}, "`min_ndim` must be an integer of at least 0, got 1.5"),
    ],
)
def test_other_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        zscore_filter(0.95, **kwargs)


def test_gradients_that_have_no_order_are_refused():
    for dtype in (jnp.complex64, jnp.int32):
        with pytest.raises(TypeError, match="must be real floating point, got dtype"):
            filtered(jnp.ones((2, 2), dtype), 0.5)


def test_a_layer_that_int32_cannot_count_is_refused():
    transformation = zscore_filter(0.95)
    layer = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    with pytest.raises(ValueError, match=r"at most 2\*\*31 - 1 entries"):
        jax.eval_shape(transformation.update, layer, optax.EmptyState())
