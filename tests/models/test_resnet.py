"""The port gives the original's numbers: logits, loss, gradients, statistics, parameter counts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsharp_jax.models import MODELS

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "model_resnet8.npz")

# Parameters for 10, 100 and 200 classes, and how many tensors have more than one axis.
COUNTS = {
    "resnet8": (75_290, 81_140, 87_640, 8),
    "resnet20": (269_722, 275_572, 282_072, 20),
    "resnet56": (853_018, 858_868, 865_368, 56),
    "resnet110": (1_727_962, 1_733_812, 1_740_312, 110),
}


def shapes(name, num_classes, pixels=32):
    model = MODELS[name](num_classes=num_classes)
    images = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    init = lambda key, images: model.init(key, images, train=False)["params"]  # noqa: E731
    return jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), images))


def test_every_model_is_counted():
    assert set(COUNTS) == set(MODELS)


@pytest.mark.parametrize("pixels", [32, 64])
@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name, pixels):
    *counts, matrices = COUNTS[name]
    for num_classes, count in zip((10, 100, 200), counts, strict=True):
        leaves = shapes(name, num_classes, pixels)
        assert sum(leaf.size for leaf in leaves) == count
        assert sum(leaf.ndim > 1 for leaf in leaves) == matrices


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables; missing kinds are left out."""
    params, statistics = {}, {}

    def layer(ours, theirs, kinds, into):
        found = {kind: key for kind, key in kinds.items() if f"{prefix}/{theirs}.{key}" in GOLDEN}
        for kind, key in found.items():
            array = GOLDEN[f"{prefix}/{theirs}.{key}"]
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            into.setdefault(ours[-1], {})[kind] = array

    blocks = {"": ""} | {f"BasicBlock_{i}": f"layer{i + 1}.0." for i in range(3)}
    for ours, theirs in blocks.items():
        own_params = params if not ours else params.setdefault(ours, {})
        own_statistics = statistics if not ours else statistics.setdefault(ours, {})
        for i in range(2):
            layer((f"Conv_{i}",), f"{theirs}conv{i + 1}", {"kernel": "weight"}, own_params)
            norm = (f"BatchNorm_{i}",)
            layer(norm, f"{theirs}bn{i + 1}", {"scale": "weight", "bias": "bias"}, own_params)
            kinds = {"mean": "running_mean", "var": "running_var"}
            layer(norm, f"{theirs}bn{i + 1}", kinds, own_statistics)
    layer(("Dense_0",), "fc", {"kernel": "weight", "bias": "bias"}, params)
    return {"params": params, "batch_stats": statistics}


def loss_fn(params, statistics, images, labels):
    logits, moved = MODELS["resnet8"](num_classes=10).apply(
        {"params": params, "batch_stats": statistics}, images, train=True, mutable=["batch_stats"]
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), (logits, moved["batch_stats"])


def assert_close(found, expected):
    """Within 1e-4 of the largest entry of each tensor."""

    def one(a, b):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.max(np.abs(b)), rtol=1e-4)

    jax.tree.map(one, found, expected)


@pytest.fixture(scope="module")
def trained():
    variables = golden_variables("state")
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    inputs = (GOLDEN["input"], GOLDEN["labels"])
    return value_and_grad(variables["params"], variables["batch_stats"], *inputs)


def test_evaluation_logits():
    model = MODELS["resnet8"](num_classes=10)
    logits = model.apply(golden_variables("state"), GOLDEN["input"], train=False)
    assert_close(logits, GOLDEN["logits_eval"])


def test_training_logits_loss_and_gradients(trained):
    (loss, (logits, _)), gradients = trained
    assert_close(logits, GOLDEN["logits_train"])
    np.testing.assert_allclose(loss, GOLDEN["loss_train"], rtol=1e-4)
    assert_close(gradients, golden_variables("grad")["params"])


def test_batch_statistics_after_a_pass(trained):
    (_, (_, found)), _ = trained
    before, after = (golden_variables(when)["batch_stats"] for when in ("state", "after"))

    def expected_statistics(path, old, new):
        if path[-1].key == "mean":
            return new
        # PyTorch moves by the unbiased variance of the batch, Flax by the biased one.
        pixels = 32 >> max(0, int(path[0].key[-1]) if "Block" in path[0].key else 0)
        size = len(GOLDEN["input"]) * pixels**2
        return 0.9 * old + (new - 0.9 * old) * (size - 1) / size

    assert_close(found, jax.tree_util.tree_map_with_path(expected_statistics, before, after))
