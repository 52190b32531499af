"""The search by counting cuts where a sort would, whatever a guess and whatever the entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zsharp_jax import _order_statistic
from zsharp_jax._order_statistic import bits_of, cuts
from zsharp_jax._reduce import layer_counts

FLOATS = {
    np.float32: st.floats(min_value=0, width=32, allow_nan=False),
    np.float64: st.floats(min_value=0, width=64, allow_nan=False),
}


def found_cuts(layers, ranks, largest=None):
    bits = [bits_of(layer)[None] for layer in layers]

    def count_below(candidates):
        counts = [layer_counts(each, candidates[i][None]) for i, each in enumerate(bits)]
        return jnp.concatenate(counts)

    largest = [np.max(layer) for layer in layers] if largest is None else largest
    sizes = [layer.size for layer in layers]
    return cuts(count_below, ranks, sizes, jnp.asarray(largest, layers[0].dtype))


def assert_cut_where_sorting_cuts(layers, ranks, **kwargs):
    found = found_cuts([jnp.asarray(layer) for layer in layers], ranks, **kwargs)
    for layer, rank, cut in zip(layers, ranks, np.asarray(found), strict=True):
        bits = layer.view(f"int{8 * layer.itemsize}")
        wanted = np.sort(bits.ravel())[rank]
        np.testing.assert_array_equal(bits < cut, bits <= wanted)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_lies_below_is_what_sorting_finds(dtype, data):
    shapes = st.sampled_from([(1,), (3, 2), (16,), (2, 24)])
    array = hnp.arrays(dtype, shapes, elements=FLOATS[dtype])
    layers = data.draw(st.lists(array, min_size=1, max_size=3))
    ranks = [data.draw(st.integers(0, layer.size - 1)) for layer in layers]
    with jax.enable_x64(dtype is np.float64):
        assert_cut_where_sorting_cuts(layers, ranks)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_zero_subnormal_and_infinity_are_in_order(rank):
    entries = np.array([1e-45, np.inf, 0.0, 1e-40, 3.4e38], np.float32)
    assert_cut_where_sorting_cuts([entries], [rank])


@pytest.mark.parametrize("size", [1, 2, 1023, 2**16, 2**24])
def test_any_size(size):
    entries = np.abs(np.random.default_rng(size).normal(size=size).astype(np.float32))
    for rank in {0, size // 2, size - 1}:
        assert_cut_where_sorting_cuts([entries], [rank])


@pytest.mark.parametrize("bound", [1.0, 1e6, 3e38])
def test_the_largest_entry_need_only_be_bounded(bound):
    entries = np.linspace(0, 1, 1000, dtype=np.float32)
    assert_cut_where_sorting_cuts([entries], [950], largest=[bound])


@pytest.mark.parametrize(
    "entries",
    [np.ones(500), np.repeat([0.0, 1.0], [990, 10]), 2.0 ** np.arange(-120, 120), np.zeros(7)],
    ids=["equal", "mostly zero", "of every scale", "zero"],
)
def test_entries_that_no_guess_fits(entries):
    entries = entries.astype(np.float32)
    for rank in {0, len(entries) // 2, len(entries) - 1}:
        assert_cut_where_sorting_cuts([entries], [rank])


def test_nan_lies_below_no_cut():
    entries = np.array([[np.nan, np.nan], [1.0, 2.0]], np.float32)
    found = found_cuts(list(jnp.asarray(entries)), [1, 0], largest=[np.nan, 2.0])
    below = np.asarray(bits_of(jnp.asarray(entries))) < np.asarray(found)[:, None]
    np.testing.assert_array_equal(below, [[False, False], [True, False]])


def test_accelerators_search_in_a_loop_of_known_length():
    entries = jnp.abs(jax.random.normal(jax.random.key(0), (1, 1000)))
    count_below = lambda candidates: layer_counts(bits_of(entries), candidates)  # noqa: E731
    search = lambda entries: cuts(count_below, [900], [1000], jnp.max(entries, 1))  # noqa: E731
    on_gpu = jax.jit(search).trace(entries).lower(lowering_platforms=("cuda",)).as_text()
    assert on_gpu.count("stablehlo.while") == 1
    assert "dense<16>" in on_gpu  # passes


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_search_of_accelerators_finds_the_same(dtype, monkeypatch):
    pick = lambda *args, cpu, default: default(*args)  # noqa: E731
    monkeypatch.setattr(_order_statistic.jax.lax, "platform_dependent", pick)
    entries = np.abs(np.random.default_rng(0).standard_t(2, size=(3, 1000))).astype(dtype)
    tied = np.repeat([0.0, 1e-40, np.inf], [600, 200, 200]).astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        assert_cut_where_sorting_cuts([*entries, tied], [0, 500, 999, 700])


def test_few_passes_cut_a_gradient(monkeypatch):
    passes = []
    narrowed = _order_statistic._narrowed
    monkeypatch.setattr(
        _order_statistic, "_narrowed", lambda *args: passes.append(1) or narrowed(*args)
    )
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=2**16), rng.laplace(size=2**16), rng.standard_t(2, size=2**16)]
    layers = [jnp.abs(jnp.asarray(layer, jnp.float32)) for layer in layers]
    with jax.disable_jit():
        found_cuts(layers, [62_258] * 3)
    assert len(passes) <= 10  # of quarters alone it takes 13


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=rf"3 entries is at most 2, got {rank}"):
        found_cuts([jnp.ones(3)], [rank])


def test_a_layer_that_int32_cannot_count_is_refused():
    with pytest.raises(ValueError, match="at most 2\\*\\*31 - 1 entries"):
        cuts(lambda candidates: candidates, [0], [2**31], jnp.ones(1))


def test_nothing_is_sorted():
    search = jax.jit(lambda layer: found_cuts([layer], [5], largest=[1.0]))
    assert "sort" not in search.lower(jnp.ones(10)).as_text()
