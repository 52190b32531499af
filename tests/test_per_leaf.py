"""What is said of leaves: a value, a tree or the top of one, a function; and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsharp_jax import asam, masked_ascent, sam, scale_to_norm, zscore_filter
from zsharp_jax._per_leaf import counts_of_leaves

TREE = {
    "blocks": {"bias": jnp.ones((3, 4)), "kernel": jnp.ones((3, 4, 5))},
    "head": jnp.ones((5, 2)),
}
ORDER = ("blocks/bias", "blocks/kernel", "head")


@pytest.mark.parametrize(
    "said, expected",
    [
        (0, [0, 0, 0]),
        (np.int64(1), [1, 1, 1]),
        ({"blocks": 1, "head": 0}, [1, 1, 0]),
        ({"blocks": {"bias": 0, "kernel": 1}, "head": 0}, [0, 1, 0]),
        (lambda tree: jax.tree.map(lambda leaf: leaf.ndim - 1, tree), [1, 2, 1]),
        (lambda tree: {"blocks": 1, "head": 0}, [1, 1, 0]),
    ],
)
def test_all_ways_to_say_it(said, expected):
    assert jax.tree.leaves(counts_of_leaves("stacked", said, TREE)) == expected


def test_masked_nodes_and_none_need_nothing_and_take_anything():
    tree = {"blocks": optax.MaskedNode(), "head": TREE["head"], "none": None}
    said = {"blocks": {"bias": 0, "kernel": 1}, "head": 2, "none": 1}
    assert jax.tree.leaves(counts_of_leaves("stacked", said, tree)) == [2]
    assert jax.tree.leaves(counts_of_leaves("stacked", {"head": 2}, tree)) == [2]


def updated(transformation):
    return transformation.update(TREE, transformation.init(TREE), TREE)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda said: zscore_filter(0.5, filtered=said), "filtered"),
        (lambda said: asam(0.1, adaptive=said), "adaptive"),
        (lambda said: masked_ascent(sam(0.1), said), "mask"),
    ],
)
@pytest.mark.parametrize(
    "said, message",
    [
        ({"blocks": True}, r"says nothing of the leaf at \['head'\]: name every leaf"),
        (
            {"blocks": True, "head": True, "tail": True},
            r"names \['tail'\], which the parameters do",
        ),
        (
            {"blocks": {"bais": True}, "head": True},
            r"nothing of the leaf at \['blocks'\]\['bias'\]",
        ),
        ({"blocks": 1, "head": True}, r"got 1 at \['blocks'\]"),
        ("head", "got 'head'"),
    ],
)
def test_what_does_not_fit_is_told_with_a_way_out(make, name, said, message):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be one value, a tree of bools.*{message}"
    ):
        updated(make(said))


@pytest.mark.parametrize(
    "said, message",
    [
        (3, r"at most the number of axes of a leaf, got 3 for the leaf at \['blocks'\]\['bias'\]"),
        (-1, "a tree of integers of at least 0.*got -1"),
        ({"blocks": True, "head": 0}, r"got True at \['blocks'\]"),
    ],
)
def test_wrong_numbers_of_stacked_axes(said, message):
    for make in (zscore_filter, scale_to_norm):
        options = {"scope": "layer", "stacked": said}
        with pytest.raises(ValueError, match=f"`stacked` must be .*{message}"):
            updated(make(0.5, **options))
