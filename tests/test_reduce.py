"""Sums and counts of a stack are NumPy's, in the form for a CPU and in that for the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax import _reduce

SHAPES = [(2,), (3, 1), (1, 64 * 24), (2, 7), (2, 8, 3), (3, 11, 13), (2, 3, 3, 16, 8), (1, 40, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", ["_packed_counts", "_plain_counts", "layer_counts"])
def test_counts(count, shape):
    rng = np.random.default_rng(0)
    stack = rng.integers(-50, 50, shape).astype(np.int32)
    candidates = rng.integers(-50, 50, (shape[0], 3)).astype(np.int32)
    flat = stack.reshape(shape[0], -1, 1)
    found = jax.jit(getattr(_reduce, count))(stack, candidates)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, np.sum(flat < candidates[:, None], axis=1))


def test_a_full_field_does_not_spill_into_the_next():
    stack = np.zeros((1, 2**12, 64), np.int32)
    found = _reduce._packed_counts(jnp.asarray(stack), jnp.array([[1, 0, 1]], jnp.int32))
    np.testing.assert_array_equal(found, [[stack.size, 0, stack.size]])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums(shape):
    stack = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = jax.jit(_reduce.layer_sums)(stack)
    np.testing.assert_allclose(found, stack.reshape(shape[0], -1).sum(1), rtol=1e-5, atol=1e-5)


def test_accelerators_do_not_fold():
    stack, candidates = jnp.ones((1, 64, 64), jnp.int32), jnp.ones((1, 3), jnp.int32)
    traced = jax.jit(_reduce.layer_counts).trace(stack, candidates)
    on = lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()  # noqa: E731
    assert on("cuda").count("stablehlo.reduce(") == 3
    assert on("cpu").count("stablehlo.reduce(") == 5
