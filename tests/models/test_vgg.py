"""The port of the VGG gives the original's numbers: logits, loss, gradients, statistics."""

import numpy as np
import pytest
from ports import assert_close, expected_statistics, flax_array, golden, training_pass

from zsharp_jax.models.vgg import VGG

GOLDEN = golden("vgg_tiny")
STAGES = ((8,), (16,), (24, 24), (32,), (32,))
MODEL = VGG(STAGES, num_classes=10)
PIXELS = [32 >> stage for stage, widths in enumerate(STAGES) for _ in widths]
CONVOLUTIONS = (0, 4, 8, 11, 15, 19)  # where they lie in PyTorch's Sequential; its norms follow


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables."""
    array = lambda key: flax_array(GOLDEN[f"{prefix}/{key}"])  # noqa: E731
    params, statistics = {}, {}
    for i, at in enumerate(CONVOLUTIONS):
        conv, norm = f"features.{at}", f"features.{at + 1}"
        if prefix != "after":
            kernel, bias = array(f"{conv}.weight"), array(f"{conv}.bias")
            params[f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
            scale, bias = array(f"{norm}.weight"), array(f"{norm}.bias")
            params[f"BatchNorm_{i}"] = {"scale": scale, "bias": bias}
        if prefix != "grad":
            mean, var = array(f"{norm}.running_mean"), array(f"{norm}.running_var")
            statistics[f"BatchNorm_{i}"] = {"mean": mean, "var": var}
    if prefix != "after":
        head = {"kernel": array("classifier.weight"), "bias": array("classifier.bias")}
        params["Dense_0"] = head
    return {"params": params, "batch_stats": statistics}


@pytest.fixture(scope="module")
def trained():
    return training_pass(MODEL, golden_variables("state"), GOLDEN)


def test_evaluation_logits():
    logits = MODEL.apply(golden_variables("state"), GOLDEN["input"], train=False)
    assert_close(logits, GOLDEN["logits_eval"])


def test_training_logits_loss_and_gradients(trained):
    (loss, (logits, _)), gradients = trained
    assert_close(logits, GOLDEN["logits_train"])
    np.testing.assert_allclose(loss, GOLDEN["loss_train"], rtol=1e-4)
    expected = golden_variables("grad")["params"]
    for i in range(len(CONVOLUTIONS)):
        # BatchNorm takes the mean away, and with it any bias before it: both see rounding only.
        scale = np.max(np.abs(expected[f"Conv_{i}"]["kernel"]))
        for tree in (gradients, expected):
            assert np.max(np.abs(tree[f"Conv_{i}"].pop("bias"))) < 1e-4 * scale
    assert_close(gradients, expected)


def test_batch_statistics_after_a_pass(trained):
    (_, (_, found)), _ = trained
    before, after = (golden_variables(when)["batch_stats"] for when in ("state", "after"))
    pixels = lambda path: PIXELS[int(path[0].key.removeprefix("BatchNorm_"))]  # noqa: E731
    assert_close(found, expected_statistics(before, after, pixels))
