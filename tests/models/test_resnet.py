"""The port of the ResNet gives the original's numbers: logits, loss, gradients, statistics."""

import numpy as np
import pytest
from ports import assert_close, expected_statistics, flax_array, golden, training_pass

from zsharp_jax.models import MODELS

GOLDEN = golden("resnet8")
MODEL = MODELS["resnet8"](num_classes=10)


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables; missing kinds are left out."""
    params, statistics = {}, {}

    def layer(ours, theirs, kinds, into):
        for kind, key in kinds.items():
            if f"{prefix}/{theirs}.{key}" in GOLDEN:
                into.setdefault(ours, {})[kind] = flax_array(GOLDEN[f"{prefix}/{theirs}.{key}"])

    blocks = {"": ""} | {f"BasicBlock_{i}": f"layer{i + 1}.0." for i in range(3)}
    for ours, theirs in blocks.items():
        own_params = params if not ours else params.setdefault(ours, {})
        own_statistics = statistics if not ours else statistics.setdefault(ours, {})
        for i in range(2):
            layer(f"Conv_{i}", f"{theirs}conv{i + 1}", {"kernel": "weight"}, own_params)
            norm = f"BatchNorm_{i}"
            layer(norm, f"{theirs}bn{i + 1}", {"scale": "weight", "bias": "bias"}, own_params)
            kinds = {"mean": "running_mean", "var": "running_var"}
            layer(norm, f"{theirs}bn{i + 1}", kinds, own_statistics)
    layer("Dense_0", "fc", {"kernel": "weight", "bias": "bias"}, params)
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
    assert_close(gradients, golden_variables("grad")["params"])


def test_batch_statistics_after_a_pass(trained):
    (_, (_, found)), _ = trained
    before, after = (golden_variables(when)["batch_stats"] for when in ("state", "after"))
    pixels = lambda path: 32 >> (int(path[0].key[-1]) if "Block" in path[0].key else 0)  # noqa: E731
    assert_close(found, expected_statistics(before, after, pixels))
