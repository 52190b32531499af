"""The search by counting finds what sorting finds, whatever the entries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax._selection._search import bits_of, search

RNG = np.random.default_rng(0)
LAYERS = np.stack([
    np.abs(RNG.normal(size=200)),
    np.abs(RNG.standard_t(1, size=200)),
    np.ones(200),
    np.repeat([0.0, 1.0], [190, 10]),
    2.0 ** np.arange(-100, 100),
    np.zeros(200),
    np.repeat([0.0, 3e38, np.inf], [100, 50, 50]),
])  # fmt: skip


@functools.partial(jax.jit, static_argnums=2)
def found(layers, ranks, bits_a_pass):
    def count_below(candidates):
        return jnp.sum(bits_of(layers)[:, None] < candidates[..., None], axis=2, dtype=jnp.int32)

    return search(count_below, ranks, jnp.zeros((), layers.dtype), bits_a_pass)


@pytest.mark.parametrize("bits_a_pass", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_lies_above_is_what_sorting_finds(dtype, bits_a_pass):
    layers = LAYERS.astype(dtype)
    wanted = np.sort(layers, axis=1)
    with jax.enable_x64(dtype is np.float64):
        for rank in (0, 1, 100, 189, 190, 198, 199):
            cut = np.asarray(found(layers, np.full(len(layers), rank, np.int32), bits_a_pass))
            above = layers.view(cut.dtype) > cut[:, None]
            np.testing.assert_array_equal(above, layers > wanted[:, rank, None])


@pytest.mark.parametrize("bits_a_pass", [2, 4])
def test_nan_lies_above_every_cut(bits_a_pass):
    layers = np.array([[np.nan, np.nan, np.nan], [1.0, 2.0, np.nan]], np.float32)
    cut = np.asarray(found(layers, np.array([1, 1], np.int32), bits_a_pass))
    above = layers.view(np.int32) > cut[:, None]
    np.testing.assert_array_equal(above, [[True, True, True], [False, False, True]])
