"""The search by counting finds what a sort finds, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zsharp_jax._order_statistic import order_statistics

FLOATS = {
    np.float32: st.floats(min_value=0, width=32),
    np.float64: st.floats(min_value=0, width=64),
}


def assert_is_the_sorted_entry(layers, ranks):
    found = order_statistics([[jnp.asarray(part) for part in layer] for layer in layers], ranks)
    for layer, rank, value in zip(layers, ranks, np.asarray(found), strict=True):
        entries = np.sort(np.concatenate([part.ravel() for part in layer]))
        # Compared as bytes: subnormal numbers equal 0 for XLA, and so might -0 and 0 here.
        assert value.tobytes() == entries[rank].tobytes(), (value, entries[rank])


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_it_is_the_entry_that_sorting_finds(dtype, data):
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=6)
    array = hnp.arrays(dtype, shapes, elements=FLOATS[dtype])
    layers = data.draw(st.lists(st.lists(array, min_size=1, max_size=2), min_size=1, max_size=3))
    ranks = [data.draw(st.integers(0, sum(a.size for a in layer) - 1)) for layer in layers]
    with jax.enable_x64(dtype is np.float64):
        assert_is_the_sorted_entry(layers, ranks)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4, 5])
def test_zero_subnormal_infinity_and_nan_rank_as_in_numpy(rank):
    entries = np.array([np.nan, 1e-45, np.inf, 0.0, 1e-40, 3.4e38], np.float32)
    assert_is_the_sorted_entry([[entries]], [rank])


@pytest.mark.parametrize("size", [1, 2, 1023, 2**16, 2**25])
def test_any_size(size):
    entries = np.abs(np.random.default_rng(size).normal(size=size).astype(np.float32))
    for rank in {0, size // 2, size - 1}:
        found = order_statistics([[jnp.asarray(entries)]], [rank])[0]
        assert found == np.partition(entries, rank)[rank]


def test_no_layers():
    assert order_statistics([], []).shape == (0,)


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=rf"3 entries is at most 2, got {rank}"):
        order_statistics([[jnp.ones(3)]], [rank])


def test_a_layer_that_int32_cannot_count_is_refused():
    huge = jax.ShapeDtypeStruct((2**31,), jnp.float32)
    with pytest.raises(ValueError, match="at most 2\\*\\*31 - 1 entries"):
        jax.eval_shape(lambda layer: order_statistics([[layer]], [0]), huge)


def test_nothing_is_sorted():
    search = jax.jit(lambda a, b: order_statistics([[a], [a, b]], [5, 7]))
    assert "sort" not in search.lower(jnp.ones(10), jnp.ones((4, 4))).as_text()
