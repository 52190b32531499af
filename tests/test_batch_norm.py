"""Flax's BatchNorm over a batch in parts: statistics of each or of all, as the layer is told."""

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


def variables():
    return Network().init(jax.random.key(0), INPUTS)


def ascend(synced_over=None, **options):
    model = Network(synced_over)

    def loss_fn(params, batch_stats, inputs):
        outputs, moved = model.apply(
            {"params": params, "batch_stats": batch_stats}, inputs, mutable=["batch_stats"]
        )
        return jnp.mean((outputs - 1) ** 2), moved["batch_stats"]

    return sharp_value_and_grad(loss_fn, ASCENT, has_aux=True, batch_argnums=2, **options)


def moved_statistics(ascend, inputs=INPUTS):
    params, batch_stats = variables()["params"], variables()["batch_stats"]
    ((_, moved), _), _, _ = ascend(params, ASCENT.init(params), batch_stats, inputs)
    return moved["BatchNorm_0"]


def on_four_devices(synced_over):
    own = ascend(synced_over, axis_name="batch")
    mapped = jax.pmap(own, "batch", in_axes=(None, None, None, 0), devices=jax.devices()[:4])

    def of_the_first(*arguments):
        *others, inputs = arguments
        return jax.tree.map(lambda leaf: leaf[0], mapped(*others, inputs.reshape(4, 8, 6)))

    return of_the_first


@pytest.mark.parametrize("launched", ["groups", "devices"])
def test_a_layer_that_is_told_the_axis_has_the_statistics_of_the_batch(launched):
    in_parts = ascend("groups", groups=4) if launched == "groups" else on_four_devices("batch")
    expected, found = moved_statistics(ascend()), moved_statistics(in_parts)
    for name in ("mean", "var"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("launched", ["groups", "microbatches", "devices"])
def test_one_that_is_not_has_the_mean_of_those_of_the_parts(launched):
    in_parts = on_four_devices(None) if launched == "devices" else ascend(**{launched: 4})
    expected, found = moved_statistics(ascend()), moved_statistics(in_parts)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-5, atol=1e-6)
    # The variance within a part is less than that of all, by that of the parts' means.
    assert np.all(found["var"] < expected["var"])
