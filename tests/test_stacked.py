"""Layers that a scan stacks are filtered, and brought to a norm, as the same layers unstacked."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax import magnitude_filter, scale_to_norm, zscore_filter, zsharp, zsharp_reference
from zsharp_jax._selection._filter import kept
from zsharp_jax._selection._in_place import thresholds_in_place
from zsharp_jax._selection._rows import thresholds_in_rows
from zsharp_jax._selection._threshold import Request

RNG = np.random.default_rng(0)
SCALES = np.array([3.0, 1.0, 0.3, 0.1])
STACKED = {
    "blocks": {
        "kernel": SCALES[:, None, None] * RNG.normal(size=(4, 16, 20)),
        "bias": SCALES[:, None] * RNG.normal(size=(4, 20)),
    },
    "attention": {"bias": RNG.normal(size=(4, 2, 3))},
    "head": RNG.normal(size=(20, 3)),
}
SAID = {
    "stacked": {"blocks": 1, "attention": 1, "head": 0},
    "filtered": {"blocks": {"kernel": True, "bias": False}, "attention": False, "head": True},
}
UNSTACKED_SAID = {
    "filtered": {"blocks": [{"kernel": True, "bias": False}] * 4, "attention": False, "head": True}
}


def unstack(tree):
    def layers(stack):
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(4)]

    return {name: sub if name == "head" else layers(sub) for name, sub in tree.items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda **said: zscore_filter(0.9, scope="global", **said),
        lambda **said: magnitude_filter(0.9, **said),
        lambda **said: zsharp(0.05, 0.9, norm_scope="layer", **said),
        lambda **said: zsharp_reference(0.05, 0.9, **said),
        lambda filtered, **said: scale_to_norm(0.05, scope="layer", **said),
    ],
    ids=["global", "magnitude", "zsharp by layer", "reference", "scale"],
)
@pytest.mark.fast_for("zsharp by layer", "global")
def test_stacked_layers_get_what_they_get_unstacked(make):
    stacked, unstacked = make(**SAID), make(stacked=0, **UNSTACKED_SAID)
    with jax.enable_x64(True):
        found, _ = jax.jit(stacked.update)(STACKED, stacked.init(STACKED))
        alone = unstack(STACKED)
        expected, _ = jax.jit(unstacked.update)(alone, unstacked.init(alone))
        found, expected = jax.device_get((unstack(found), expected))
    chex.assert_trees_all_close(found, expected, rtol=1e-9)
    masks = [jax.tree.map(lambda leaf: leaf != 0, tree) for tree in (found, expected)]
    chex.assert_trees_all_equal(*masks)


@pytest.mark.parametrize("thresholds", [thresholds_in_place, thresholds_in_rows])
def test_both_forms_know_layers_stacked_along_several_axes(thresholds):
    gradients = [
        RNG.normal(size=(2, 3, 40, 30)).astype("f4"),
        RNG.normal(size=(40, 30)).astype("f4"),
    ]
    request = Request(0.9, "layer", by_zscore=True, stacked=(2, 0))
    options = {"folded": True} if thresholds is thresholds_in_place else {}
    find = lambda leaves, request: thresholds(leaves, request, **options)  # noqa: E731
    found = jax.jit(lambda gradients: kept(gradients, request, find))(gradients)
    alone = [*gradients[0].reshape(6, 40, 30), gradients[1]]
    request = request._replace(stacked=(0,) * 7)
    expected = jax.jit(lambda gradients: kept(gradients, request, find))(alone)
    chex.assert_trees_all_equal([*jnp.reshape(found[0], (6, 40, 30)), found[1]], expected)


def test_a_slice_counts_its_axes_and_its_entries_alone():
    kernel = jax.ShapeDtypeStruct((2**16, 2**10, 2**8), jnp.float32)  # 2^34 entries
    update = zscore_filter(0.95, stacked=1).update
    assert jax.eval_shape(update, kernel, ())[0].shape == kernel.shape
    biases = jnp.asarray(RNG.normal(size=(4, 20)), jnp.float32)
    chex.assert_trees_all_equal(update(biases, ())[0], biases)
