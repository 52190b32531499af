"""Convolutions as products of matrices are the convolutions, in whole networks too."""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax.benchmark.training import convolutions
from zsharp_jax.benchmark.training.convolutions import (
    convolved_3x3,
    quick_in_loops,
    quick_when_small,
)
from zsharp_jax.models.layers import conv3x3
from zsharp_jax.models.resnet import ResNet


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_by_products_is_the_convolution(stride):
    rng = np.random.default_rng(0)
    images, kernel = (
        jnp.asarray(rng.normal(size=shape), "f4") for shape in ((2, 7, 6, 3), (3, 3, 3, 4))
    )
    expected = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolved_3x3(images, kernel, stride), expected, atol=1e-5)


class TwoConvolutions(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, images):
        outputs = conv3x3(self.dtype, use_bias=True)(4, strides=2)(images)
        return conv3x3(self.dtype, use_bias=False)(4)(outputs)


@pytest.mark.parametrize("quick", [quick_in_loops, quick_when_small])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.fast_for("float32-*")
def test_a_network_that_convolves_by_products_is_the_network(quick, dtype):
    model = TwoConvolutions(dtype)
    images = jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
    variables: Any = model.init(jax.random.key(1), images)

    def kinds_and_gradient(context):
        kinds = []

        def loss(params):
            given = variables | {"params": params}
            with context:
                outputs, seen = model.apply(given, images, capture_intermediates=True)
            kinds.extend(leaf.dtype for leaf in jax.tree.leaves(seen))
            return jnp.sum(outputs**2)

        return kinds, jax.grad(loss)(variables["params"])

    expected_kinds, expected = kinds_and_gradient(contextlib.nullcontext())
    kinds, gradient = kinds_and_gradient(quick())
    assert kinds == expected_kinds
    tolerance = 1e-4 if dtype == jnp.float32 else 0.1
    for leaf, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        scale = float(jnp.max(jnp.abs(wanted)))
        np.testing.assert_allclose(leaf, wanted, atol=tolerance * scale)


@pytest.mark.parametrize("side, products", [(16, 0), (8, 2), (4, 4)])
def test_only_small_images_are_convolved_so(side, products, monkeypatch):
    model, seen = ResNet(blocks=1, num_classes=10), []
    images = jnp.zeros((4, side, side, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(1), images, train=False))

    def convolve(images, kernel, stride):
        seen.append(max(images.shape[1:3]) / stride)
        return convolved_3x3(images, kernel, stride)

    monkeypatch.setattr(convolutions, "convolved_3x3", convolve)
    with quick_when_small():
        jax.eval_shape(lambda given: model.apply(given, images, train=False), variables)
    assert len(seen) == products
    assert all(pixels <= 2 for pixels in seen)
