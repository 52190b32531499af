"""Each method perturbs as its name says, with rho and quantile where they belong."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zsharp_jax
from zsharp_jax.benchmark.methods import METHODS, filtered_tensors, keep_at_random

ROOT = 2**0.5  # of K = 2 tensors with two axes
LIBRARY = {
    "sam": zsharp_jax.sam(0.3),
    "asam": zsharp_jax.asam(0.3, 0.2),
    "friendly_sam": zsharp_jax.friendly_sam(0.3),
    "zsharp": zsharp_jax.zsharp(0.3, 0.7),
    "zsharp_reference": zsharp_jax.zsharp_reference(0.3, 0.7),
    "sam_matched": zsharp_jax.sam(0.3 * ROOT),
    "sam_layerwise": zsharp_jax.scale_to_norm(0.3, scope="layer"),
    "zsharp_matched": zsharp_jax.zsharp(0.3 * ROOT, 0.7),
    "zsharp_global": zsharp_jax.zsharp(0.3, 0.7, percentile_scope="global"),
}


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (6, 5), "bias": (5,), "head": (5, 3)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def test_no_method_is_unchecked():
    assert set(METHODS) == {"adamw", "zsharp_random", *LIBRARY} and METHODS["adamw"] is None


@pytest.mark.parametrize("method", LIBRARY)
def test_a_method_is_the_ascent_of_its_name(method):
    params = draw(0)
    found, expected = METHODS[method](0.3, 0.7, filtered_tensors(params), 0.2), LIBRARY[method]
    states = found.init(params), expected.init(params)
    for seed in (1, 2):  # friendly_sam begins as sam
        ours, found_state = found.update(draw(seed), states[0], params)
        theirs, expected_state = expected.update(draw(seed), states[1], params)
        states = found_state, expected_state
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_matched_methods_are_as_long_as_the_authors_code():
    params, gradients = draw(0), draw(1)

    def length(method):
        ascent = METHODS[method](0.3, 0.7, filtered_tensors(params), 0.2)
        perturbation, _ = ascent.update(gradients, ascent.init(params), params)
        kernels = [leaf for leaf in jax.tree.leaves(perturbation) if leaf.ndim > 1]
        return zsharp_jax._precision.tree_norm(
            kernels if method == "zsharp_reference" else perturbation
        )

    for method in ("sam_matched", "zsharp_matched"):
        np.testing.assert_allclose(length(method), length("zsharp_reference"), rtol=1e-5)


def test_a_random_mask_is_of_the_same_size_and_new_at_each_step_and_seed():
    transformation = keep_at_random(0.7)
    gradients = draw(1)
    masks = []
    for seed in (0, 5):
        state = transformation.init(draw(seed))
        for _ in range(2):
            kept, state = transformation.update(gradients, state)
            chex.assert_trees_all_equal(kept["bias"], gradients["bias"])
            for name in ("kernel", "head"):
                size = gradients[name].size
                assert jnp.sum(kept[name] != 0) == size - 1 - int(0.7 * (size - 1))
                is_kept = kept[name] != 0
                np.testing.assert_array_equal(kept[name][is_kept], gradients[name][is_kept])
            masks.append(np.asarray(kept["kernel"] != 0).tobytes())
    assert len(set(masks)) == 4


def test_zsharp_random_is_as_long_as_sam():
    ascent = METHODS["zsharp_random"](0.3, 0.7, 2, 0.2)
    perturbation, _ = ascent.update(draw(1), ascent.init(draw(0)))
    np.testing.assert_allclose(zsharp_jax._precision.tree_norm(perturbation), 0.3, rtol=1e-5)
