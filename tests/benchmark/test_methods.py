"""Each method perturbs as its name says, with rho and quantile where they belong."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SETTINGS

import zsharp_jax
from zsharp_jax.benchmark.runs.methods import METHODS, Given
from zsharp_jax.benchmark.runs.random_mask import keep_at_random
from zsharp_jax.benchmark.training.steps import MethodSteps, filtered_tensors

# One of each kind: those that filter take their steps alike.
COUNTED = ["adamw", "sam", "looksam", "sam_late", "momentum_sam", "sam_quarter"]
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
    "gsam": zsharp_jax.sam(0.3),
    "gnp": zsharp_jax.sam(0.3),
    "looksam": zsharp_jax.sam(zsharp_jax.periodic_rho(0.3, every=5)),
    "zsharp_gsam": zsharp_jax.zsharp(0.3, 0.7),
    "unified_sam": zsharp_jax.unified_sam(0.3),
    "vasso": zsharp_jax.vasso(0.3),
    "magnitude": optax.chain(zsharp_jax.magnitude_filter(0.7), zsharp_jax.scale_to_norm(0.3)),
    "sam_one_pass": zsharp_jax.sam(0.3),
    "zsharp_one_pass": zsharp_jax.zsharp(0.3, 0.7),
    "momentum_sam": optax.chain(optax.trace(0.9), zsharp_jax.scale_to_norm(0.3)),
    "sam_quarter": zsharp_jax.sam(0.3),
    "zsharp_quarter": zsharp_jax.zsharp(0.3, 0.7),
    "sam_late": zsharp_jax.sam(zsharp_jax.periodic_rho(0.3, start=1)),
    "zsharp_late": zsharp_jax.zsharp(zsharp_jax.periodic_rho(0.3, start=1), 0.7),
}
LINKS = {
    "gsam": zsharp_jax.surrogate_gap(0.4),
    "gnp": zsharp_jax.mix_gradients(0.8),
    "looksam": zsharp_jax.look_back(0.7),
    "zsharp_gsam": zsharp_jax.surrogate_gap(0.4),
}


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (6, 5), "bias": (5,), "head": (5, 3)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


GIVEN = Given(rho=0.3, quantile=0.7, tensors=filtered_tensors(draw(0)), eta=0.2, steps=1)


def ascent_of(method):
    return METHODS[method].ascent(GIVEN)


def test_no_method_is_unchecked():
    assert set(METHODS) == {"adamw", "zsharp_random", *LIBRARY}


class Watched:
    """As `Given`, and notes what it is asked for."""

    def __init__(self, **values):
        self.values, self.asked = values, set()

    def __getattr__(self, name):
        self.asked.add(name)
        return self.values[name]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_has_a_use_for(name):
    method, given = METHODS[name], Watched(rho=0.3, quantile=0.7, tensors=2, eta=0.2, steps=10)
    for make in (method.ascent, method.links):
        if make is not None:
            make(given)
    assert method.perturbs == ("rho" in given.asked)
    assert method.filters == ("quantile" in given.asked)
    assert (method.depends_on_length is not None) == ("steps" in given.asked)
    assert len(method.about) < 70 and "\n" not in method.about


@pytest.mark.parametrize("method", LIBRARY)
def test_a_method_is_the_ascent_of_its_name(method):
    params = draw(0)
    found, expected = ascent_of(method), LIBRARY[method]
    states = found.init(params), expected.init(params)
    for seed in (1, 2):  # friendly_sam begins as sam
        ours, found_state = found.update(draw(seed), states[0], params)
        theirs, expected_state = expected.update(draw(seed), states[1], params)
        states = found_state, expected_state
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_a_method_has_the_link_of_its_name():
    assert {name for name, method in METHODS.items() if method.links} == set(LINKS)
    for name, expected in LINKS.items():
        found, told = METHODS[name].links(GIVEN), []
        for link in (found, expected):
            state = link.init(draw(0))
            told.append(link.update(draw(1), state, clean_gradients=draw(2), perturbation=draw(3)))
        chex.assert_trees_all_equal(*told)


def passes_of(method, steps):
    """How many passes over the whole batch a step takes on average, counted when it runs."""
    rows = []

    @jax.custom_vjp
    def counted(x):
        return x

    def forward(x):
        return x, None

    def backward(_, cotangent):
        jax.debug.callback(lambda c: rows.append(len(c)), cotangent)
        return (cotangent,)

    counted.defvjp(forward, backward)

    def loss_fn(params, inputs):
        return jnp.mean(counted(inputs @ params["kernel"]) ** 2), None

    settings = dataclasses.replace(SETTINGS, method=method, epochs=1)
    made = MethodSteps(settings, steps_per_epoch=steps)
    params = {"kernel": jnp.ones((3, 2))}
    state, step = made.start(params), jax.jit(made.step(loss_fn, 0.1, params))
    for _ in range(steps):
        state, info = step(state, jnp.ones((8, 3)))
    jax.effects_barrier()
    assert jnp.isfinite(info.loss) and jnp.isfinite(info.gradient_norm)
    return sum(rows) / 8 / steps


@pytest.mark.parametrize("method", COUNTED)
def test_a_step_takes_the_passes_that_the_method_says(method):
    assert passes_of(method, steps=10) == pytest.approx(METHODS[method].passes)


def test_matched_methods_are_as_long_as_the_authors_code():
    params, gradients = draw(0), draw(1)

    def length(method):
        ascent = ascent_of(method)
        perturbation, _ = ascent.update(gradients, ascent.init(params), params)
        kernels = [leaf for leaf in jax.tree.leaves(perturbation) if leaf.ndim > 1]
        return zsharp_jax._norm.tree_norm(kernels if method == "zsharp_reference" else perturbation)

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


def test_a_random_mask_does_not_depend_on_the_order_in_which_weights_are_added():
    # That order is another one where runs are trained at once, and float32 rounds.
    weights = jax.random.normal(jax.random.key(0), (37, 33, 9))
    there, back = (keep_at_random(0.9).init({"w": w}) for w in (weights, weights[::-1]))
    np.testing.assert_array_equal(jax.random.key_data(there.key), jax.random.key_data(back.key))


def test_zsharp_random_is_as_long_as_sam():
    ascent = ascent_of("zsharp_random")
    perturbation, _ = ascent.update(draw(1), ascent.init(draw(0)))
    np.testing.assert_allclose(zsharp_jax._norm.tree_norm(perturbation), 0.3, rtol=1e-5)
