"""Every model by name: how many parameters, and what its dtype changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsharp_jax.models import MODELS
from zsharp_jax.models.resnet import ResNet
from zsharp_jax.models.vgg import VGG
from zsharp_jax.models.vit import ViT

# Parameters for 10, 100 and 200 classes, and how many tensors have more than one axis.
COUNTS = {
    "resnet8": (75_290, 81_140, 87_640, 8),
    "resnet20": (269_722, 275_572, 282_072, 20),
    "resnet56": (853_018, 858_868, 865_368, 56),
    "resnet110": (1_727_962, 1_733_812, 1_740_312, 110),
    "vgg16_bn": (14_728_266, 14_774_436, 14_825_736, 14),
    "vit_3_4_4_64": (89_930, 95_780, 102_280, 22),
    "vit_7_8_8_384": (6_268_810, 6_303_460, 6_341_960, 46),
    "vit_7_8_12_768": (8_335_882, 8_370_532, 8_409_032, 46),
}
# A patch of a larger image has more pixels, so the first layer of a ViT has more rows.
MORE_AT_64_PIXELS = {"vit_3_4_4_64": 36_864, "vit_7_8_8_384": 55_296, "vit_7_8_12_768": 55_296}


def shapes(model, pixels=32):
    images = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    init = lambda key, images: model.init(key, images, train=False)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0), images)


def test_every_model_is_counted():
    assert set(COUNTS) == set(MODELS)


@pytest.mark.parametrize("pixels", [32, 64])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.fast_for("resnet8-*", "vgg16_bn-32", "vit_7_8_8_384-32")
def test_parameter_counts(name, pixels):
    *counts, matrices = COUNTS[name]
    more = MORE_AT_64_PIXELS.get(name, 0) if pixels == 64 else 0
    for num_classes, count in zip((10, 100, 200), counts, strict=True):
        leaves = jax.tree.leaves(shapes(MODELS[name](num_classes=num_classes), pixels)["params"])
        assert sum(leaf.size for leaf in leaves) == count + more
        assert sum(leaf.ndim > 1 for leaf in leaves) == matrices


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.fast_for("resnet8", "vit_7_8_8_384")
def test_bfloat16_is_for_computing_only(name):
    model = MODELS[name](num_classes=10, dtype=jnp.bfloat16)
    variables = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    apply = lambda variables, images: model.apply(variables, images, train=False)  # noqa: E731
    assert jax.eval_shape(apply, variables, images).dtype == jnp.float32
    text = str(jax.make_jaxpr(apply)(variables, images))
    multiplied = [line for line in text.splitlines() if "conv_gen" in line or "dot_gen" in line]
    assert multiplied and all(":bf16[" in line for line in multiplied)


SMALL = {
    "resnet": functools.partial(ResNet, blocks=1, widths=(8, 16)),
    "vgg": functools.partial(VGG, stages=((8,), (16,))),
    "vit": functools.partial(ViT, layers=1, width=16, heads=2, mlp_width=32),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.fast_for("vit")
def test_bfloat16_gives_nearly_the_same_logits(name):
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    exact, rounded = (SMALL[name](num_classes=10, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    compiled = functools.partial(jax.jit, static_argnames="train")
    variables = compiled(exact.init)(jax.random.key(0), images, train=False)
    expected, found = (
        compiled(model.apply)(variables, images, train=False) for model in (exact, rounded)
    )
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.max(np.abs(expected)))


@pytest.mark.parametrize(
    "name, pixels, rule",
    [("vit_7_8_8_384", 30, "multiples of grid=8, got 30 and 30"), ("vgg16_bn", 31, "at least 32")],
)
def test_images_that_do_not_fit_are_refused(name, pixels, rule):
    with pytest.raises(ValueError, match=rule):
        shapes(MODELS[name](num_classes=10), pixels)
