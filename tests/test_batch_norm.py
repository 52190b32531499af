"""Flax's BatchNorm over a batch in parts: statistics of each or of all, as the layer is told."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax import sharp_value_and_grad, zsharp

INPUTS = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
ASCENT = zsharp(0.1, 0.5)


class Network(nn.Module):
    synced_over: str | None = None

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.Dense(4, use_bias=False)(inputs)
        norm = nn.BatchNorm(use_running_average=False, momentum=0.5, axis_name=self.synced_over)
        return nn.Dense(1)(jnp.tanh(norm(hidden)))


@functools.cache
def variables():
    return Network().init(jax.random.key(0), INPUTS)


def ascend(synced_over=None, ascent=ASCENT, **options):
    model = Network(synced_over)

    def loss_fn(params, batch_stats, inputs):
        outputs, moved = model.apply(
            {"params": params, "batch_stats": batch_stats}, inputs, mutable=["batch_stats"]
        )
        return jnp.mean((outputs - 1) ** 2), moved["batch_stats"]

    ascend = sharp_value_and_grad(loss_fn, ascent, has_aux=True, batch_argnums=2, **options)
    return jax.jit(ascend)


def evaluated(ascend):
    """The statistics as they have moved, and the gradient at w + ε."""
    params, batch_stats = variables()["params"], variables()["batch_stats"]
    ((_, moved), gradients), _, _ = ascend(params, ASCENT.init(params), batch_stats, INPUTS)
    return moved["BatchNorm_0"], gradients


def on_four_devices(synced_over, **options):
    own = ascend(synced_over, axis_name="batch", **options)
    mapped = jax.pmap(own, "batch", in_axes=(None, None, None, 0), devices=jax.devices()[:4])

    def of_the_first(*arguments):
        *others, inputs = arguments
        return jax.tree.map(lambda leaf: leaf[0], mapped(*others, inputs.reshape(4, 8, 6)))

    return of_the_first


@pytest.mark.parametrize("launched", ["groups", "devices"])
@pytest.mark.fast_for("groups")
def test_a_layer_that_is_told_the_axis_sees_the_parts_as_one_batch(launched):
    if launched == "groups":
        ascent = zsharp(0.0, 0.5)  # with any other rho each has a perturbation of its own
        in_parts = ascend("groups", ascent, groups=4)
    else:
        ascent, in_parts = ASCENT, on_four_devices("batch")
    expected = evaluated(ascend(ascent=ascent))
    chex.assert_trees_all_close(evaluated(in_parts), expected, rtol=1e-5, atol=1e-6)


def test_groups_with_such_layers_do_not_depend_on_the_devices():
    found, expected = on_four_devices("batch", groups=4), ascend("groups", groups=4)
    chex.assert_trees_all_close(evaluated(found), evaluated(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("launched", ["groups", "microbatches", "devices"])
@pytest.mark.fast_for("groups")
def test_one_that_is_not_has_the_mean_of_the_statistics_of_the_parts(launched):
    in_parts = on_four_devices(None) if launched == "devices" else ascend(**{launched: 4})
    (expected, _), (found, _) = evaluated(ascend()), evaluated(in_parts)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-5, atol=1e-6)
    # The variance within a part is less than that of all, by that of the parts' means.
    assert np.all(found["var"] < expected["var"])
