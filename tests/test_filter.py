"""The mask is NumPy's, for every kind of tensor, dtype and size; its laws are design laws."""

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

RNG = np.random.default_rng(0)
DTYPES = [np.float32, jnp.bfloat16, np.float16]
TENSORS = {
    "normal": RNG.normal(size=(40, 50)),
    "heavy tails": RNG.standard_t(2, size=(3, 3, 8, 16)),
    "constant": np.full((7, 11), 0.1),
    "tied": RNG.integers(-2, 3, size=(30, 30)),
    "two values": np.repeat([[1.0], [3.0]], 8, axis=1),
    "subnormal": RNG.normal(size=(20, 20)) * 1e-41,
    "subnormal and small": RNG.normal(size=(20, 20)) * 10.0 ** RNG.integers(-43, -33, (20, 20)),
    "small": RNG.normal(size=(20, 20)) * 1e-25,
    "large": RNG.normal(size=(20, 20)) * 1e4,
    "zero": np.zeros((5, 5)),
    "one entry": np.array([[3.0]]),
    "two entries": np.array([[3.0, -1.0]]),
    "one axis": RNG.normal(size=33),
    "no axis": np.array(2.0),
}


@functools.cache  # one compiled filter for all examples of a shape
def compiled_filter(quantile, **kwargs):
    return jax.jit(zscore_filter(quantile, **kwargs).update)


def filtered(gradients, quantile, **kwargs):
    return compiled_filter(quantile, **kwargs)(gradients, optax.EmptyState())[0]


def assert_keeps_what_numpy_keeps(kept, gradient, quantile):
    # Entries keep their gradient to the bit, so the mask can be read off the result.
    expected = np.where(oracles.keep_mask(gradient, quantile), gradient, 0).astype(gradient.dtype)
    assert kept.dtype == gradient.dtype
    assert np.asarray(kept).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "dtype, quantile",
    [
        (np.float32, 0.0),
        (np.float32, 0.6),
        (np.float32, 0.95),
        (jnp.bfloat16, 0.95),
        (np.float16, 0.6),
    ],
)
def test_the_mask_of_each_layer_is_numpys(dtype, quantile):
    gradients = {name: tensor.astype(dtype) for name, tensor in TENSORS.items()}
    for name, kept in filtered(gradients, quantile, min_ndim=0).items():
        assert_keeps_what_numpy_keeps(kept, gradients[name], quantile)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", TENSORS)
def test_a_quantile_over_all_layers_is_that_of_the_layer_where_there_is_one(name, dtype):
    gradient = TENSORS[name].astype(dtype)
    kept = filtered(gradient, 0.6, scope="global", min_ndim=0)
    assert_keeps_what_numpy_keeps(kept, gradient, 0.6)


# Sums of these in float32 are exact, so that float32 and float64 agree about ties.
DYADIC = st.integers(-(2**10), 2**10).map(lambda numerator: numerator / 64)
SHAPES = st.sampled_from([(1,), (2, 1), (4, 4, 2), (64,)])


QUANTILES = st.sampled_from([0.0, 0.5, 0.95])


@given(gradient=hnp.arrays(np.float32, SHAPES, elements=DYADIC), quantile=QUANTILES)
@settings(max_examples=200, deadline=None)
def test_the_mask_is_numpys_in_float64_where_sums_are_exact(gradient, quantile):
    kept = filtered(gradient, quantile, min_ndim=0)
    expected = np.where(oracles.keep_mask(gradient, quantile), gradient, 0)
    np.testing.assert_array_equal(kept, expected)


FINITE = st.floats(-1e15, 1e15, allow_subnormal=False)


@given(gradient=hnp.arrays(np.float64, SHAPES, elements=FINITE), quantile=QUANTILES)
@settings(max_examples=200, deadline=None)
def test_the_mask_is_numpys_but_within_rounding_of_the_threshold(gradient, quantile):
    with jax.enable_x64(True):
        kept = np.asarray(filtered(gradient, quantile, min_ndim=0)) != 0
    deviation = np.abs(gradient - gradient.mean())
    threshold = np.quantile(deviation, quantile)
    rounding = 8 * np.finfo(np.float64).eps * np.max(np.abs(gradient))
    expected = (deviation > threshold) & (gradient != 0)
    assert np.all((kept == expected) | (np.abs(deviation - threshold) <= rounding))


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("size", [1, 3, 1000, 2**16 + 1])
def test_the_count_is_exact_without_ties(size, quantile):
    with jax.enable_x64(True):
        gradient = np.random.default_rng(size).normal(size=size)
        kept = filtered(gradient, quantile, min_ndim=0)
        assert np.count_nonzero(kept) == oracles.kept_count(size, quantile)


@pytest.mark.parametrize("size", [2**20, 2**24 + 1, 2**25])
def test_large_tensors(size):
    gradient = np.random.default_rng(size).normal(size=size).astype(np.float32)
    kept = np.asarray(filtered(gradient, 0.95, min_ndim=0)) != 0
    deviation = np.abs(gradient - gradient.mean(dtype=np.float64))
    threshold = np.quantile(deviation, 0.95)
    # float32 has few numbers there: some lie too near the threshold to tell.
    undecided = np.abs(deviation - threshold) <= 2 * np.finfo(np.float32).eps * threshold
    assert undecided.sum() < 1e-6 * size + 3
    assert np.all((kept == (deviation > threshold)) | undecided)


def test_one_quantile_over_all_layers():
    gradients = [TENSORS["normal"], TENSORS["heavy tails"] * 1e-3, TENSORS["constant"]]
    gradients = [gradient.astype(np.float32) for gradient in gradients]
    kept = filtered(gradients, 0.9, scope="global")
    for result, gradient, mask in zip(
        kept, gradients, oracles.global_keep_masks(gradients, 0.9), strict=True
    ):
        np.testing.assert_array_equal(result, np.where(mask, gradient, 0))


def test_a_quantile_over_all_layers_is_another_filter():
    gradients = {"a": TENSORS["normal"], "b": TENSORS["heavy tails"]}
    by_layer, over_all = filtered(gradients, 0.9), filtered(gradients, 0.9, scope="global")
    share = {name: np.mean(np.asarray(leaf) != 0) for name, leaf in over_all.items()}
    assert share["a"] > 0.11 and share["b"] < 0.09
    for name, leaf in by_layer.items():
        assert np.count_nonzero(leaf) == oracles.kept_count(leaf.size, 0.9), name


def test_the_scale_of_a_layer_does_not_matter():
    gradient = TENSORS["normal"].astype(np.float32)
    for scope in ("layer", "global"):
        kept = np.asarray(filtered([gradient], 0.9, scope=scope)[0]) != 0
        for scale in (2.0**-100, 2.0**40):
            scaled = np.asarray(filtered([gradient * np.float32(scale)], 0.9, scope=scope)[0]) != 0
            np.testing.assert_array_equal(scaled, kept)


def test_tensors_with_few_axes_pass_unfiltered():
    gradients = {"bias": jnp.arange(1.0, 6.0), "scale": jnp.array(2.0), "kernel": jnp.eye(4)}
    kept = filtered(gradients, 0.9)
    np.testing.assert_array_equal(kept["bias"], gradients["bias"])
    np.testing.assert_array_equal(kept["scale"], gradients["scale"])
    assert np.count_nonzero(kept["kernel"]) == 0  # a tie: four entries stand out alike
    assert np.count_nonzero(filtered(gradients, 0.5, min_ndim=1)["bias"]) == 2


def test_empty_tensors_none_leaves_and_mixed_dtypes_survive():
    gradients = {
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "half": jnp.asarray(TENSORS["normal"], jnp.bfloat16),
        "single": jnp.asarray(TENSORS["normal"], jnp.float32),
    }
    for scope in ("layer", "global"):
        kept = filtered(gradients, 0.5, scope=scope)
        chex.assert_trees_all_equal_shapes_and_dtypes(kept, gradients)


def test_float32_and_float64_layers_share_one_search():
    with jax.enable_x64(True):
        gradients = [jnp.asarray(TENSORS["normal"], dtype) for dtype in (np.float32, np.float64)]
        for result, gradient in zip(filtered(gradients, 0.95), gradients, strict=True):
            expected = np.where(oracles.keep_mask(np.asarray(gradient), 0.95), gradient, 0)
            np.testing.assert_array_equal(result, expected)


def test_it_works_in_every_layer_of_a_vmap():
    batch = jnp.asarray(RNG.normal(size=(4, 6, 6)), jnp.float32)
    transformation = zscore_filter(0.8)
    mapped = jax.vmap(lambda g: transformation.update(g, optax.EmptyState())[0])(batch)
    for gradient, kept in zip(batch, mapped, strict=True):
        np.testing.assert_array_equal(kept, filtered(gradient, 0.8))


@pytest.mark.parametrize("quantile", [-0.1, 1.0, 1.5, float("nan"), "0.95", None, True])
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
