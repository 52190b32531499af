"""Layers in rows on each device of a mesh have the thresholds that one device finds.

This is the form of accelerators; what a CPU takes on a mesh is in `test_devices.py`.
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from zsharp_jax import zscore_filter
from zsharp_jax._selection._filter import kept
from zsharp_jax._selection._rows import thresholds_in_rows
from zsharp_jax._selection._sharded import thresholds_on_mesh, with_automatic_axes
from zsharp_jax._selection._threshold import Request

# For each leaf its shape, how many axes stack layers, and what it is split over.
LEAVES = [
    ((64, 32), 0, P("data", "model")),
    ((24, 8), 0, P("data")),
    ((3, 7), 0, P()),
    ((4, 6, 10), 1, P("data")),
    ((5, 8, 6), 1, P(None, "model")),
    ((4, 2, 3, 5), 2, P("data", "model")),
    ((16,), 0, P(("data", "model"))),
    ((3, 3, 4, 8), 0, P(None, None, "data", "model")),
    ((4, 3, 3, 5, 6), 1, P("data", None, None, None, "model")),
]
REQUEST = Request(0.9, "layer", by_zscore=True, stacked=tuple(stacked for _, stacked, _ in LEAVES))


@pytest.fixture(scope="module")
def gradients():
    return placed(AxisType.Auto)


def placed(axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    rng = np.random.default_rng(0)
    # Sums of these are exact, whatever their order.
    return [
        jax.device_put(rng.integers(-999, 999, shape).astype(np.float32), NamedSharding(mesh, spec))
        for shape, _, spec in LEAVES
    ]


def on_one_device(gradients, request):
    keep = jax.jit(lambda gradients: kept(gradients, request, thresholds_in_rows))
    return keep(jax.device_get(gradients))


@pytest.mark.parametrize("scope, sums", [("layer", 1), ("global", 3)])
def test_the_mask_is_that_of_one_device_and_only_counts_are_exchanged(gradients, scope, sums):
    request = REQUEST._replace(scope=scope)
    keep = jax.jit(lambda gradients: kept(gradients, request, thresholds_on_mesh))
    compiled = keep.lower(gradients).compile()
    found = compiled(gradients)
    chex.assert_trees_all_equal(jax.device_get(found), on_one_device(gradients, request))
    for leaf, gradient in zip(found, gradients, strict=True):
        assert leaf.sharding.is_equivalent_to(gradient.sharding, leaf.ndim)
    program = compiled.as_text()
    # Each in its loop; that of the search makes two passes a round.
    assert len(re.findall(r" all-reduce(?:-start)?\(", program)) == sums + 2
    for moved in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert moved not in program, moved


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.fast_for("layer")
def test_explicit_axes_have_the_mask_of_one_device_in_either_form(scope):
    gradients, request = placed(AxisType.Explicit), REQUEST._replace(scope=scope)
    expected = on_one_device(jax.device_get(gradients), request)
    stacked, filtered = list(request.stacked), [True] * len(gradients)
    of_cpus = zscore_filter(0.9, scope=scope, stacked=stacked, filtered=filtered)

    def in_rows(leaves, request):
        on_mesh = lambda *leaves: thresholds_on_mesh(leaves, request)  # noqa: E731
        return with_automatic_axes(on_mesh, leaves, request)

    for found in (
        of_cpus.update(gradients, of_cpus.init(gradients))[0],
        jax.jit(lambda gradients: kept(gradients, request, in_rows))(gradients),
    ):
        chex.assert_trees_all_equal(jax.device_get(found), expected)
        for leaf, gradient in zip(found, gradients, strict=True):
            assert leaf.sharding.is_equivalent_to(gradient.sharding, leaf.ndim)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.fast_for("layer")
def test_every_member_of_a_batch_has_its_own(gradients, scope):
    request = REQUEST._replace(scope=scope)
    batch = [jnp.stack([leaf, leaf**2 - 3 * leaf, leaf + 1]) for leaf in gradients]
    found = jax.jit(jax.vmap(lambda each: kept(each, request, thresholds_on_mesh)))(batch)
    for i in range(3):
        expected = on_one_device([leaf[i] for leaf in batch], request)
        chex.assert_trees_all_equal([np.asarray(leaf[i]) for leaf in found], expected)
