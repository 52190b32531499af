"""The port of the vision transformer gives the original's numbers: logits, loss, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ports import assert_close, flax_array, golden, training_pass

from zsharp_jax.models.vit import ViT

GOLDEN = golden("vit_tiny")
MODEL = ViT(layers=2, width=48, heads=4, mlp_width=96, num_classes=10)


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables."""
    array = lambda key: GOLDEN[f"{prefix}/{key}"]  # noqa: E731

    def dense(key):
        return {"kernel": flax_array(array(f"{key}.weight")), "bias": array(f"{key}.bias")}

    def norm(key):
        return {"scale": array(f"{key}.weight"), "bias": array(f"{key}.bias")}

    params = {"class_token": array("cls_token"), "positions": array("pos_emb")}
    params |= {"Dense_0": dense("emb"), "LayerNorm_0": norm("fc.0"), "Dense_1": dense("fc.1")}
    names = {"query": "q", "key": "k", "value": "v", "out": "o"}
    for i in range(MODEL.layers):
        block = f"enc.{i}"
        params[f"EncoderBlock_{i}"] = {
            "Attention_0": {ours: dense(f"{block}.msa.{key}") for ours, key in names.items()},
            **{f"LayerNorm_{j}": norm(f"{block}.la{j + 1}") for j in range(2)},
            **{f"Dense_{j}": dense(f"{block}.mlp.{3 * j}") for j in range(2)},
        }
    return {"params": params}


def test_evaluation_logits():
    logits = MODEL.apply(golden_variables("state"), GOLDEN["input"], train=False)
    assert_close(logits, GOLDEN["logits_eval"])


def test_training_logits_loss_and_gradients():
    (loss, (logits, _)), gradients = training_pass(MODEL, golden_variables("state"), GOLDEN)
    assert_close(logits, GOLDEN["logits_train"])
    np.testing.assert_allclose(loss, GOLDEN["loss_train"], rtol=1e-4)
    expected = golden_variables("grad")["params"]
    for i in range(MODEL.layers):
        # Softmax takes away what every key adds alike: the bias of the keys sees rounding only.
        names = (f"EncoderBlock_{i}", "Attention_0", "key")
        scale = np.max(np.abs(expected[names[0]][names[1]][names[2]]["kernel"]))
        for tree in (gradients, expected):
            bias = tree[names[0]][names[1]][names[2]].pop("bias")
            assert np.max(np.abs(bias)) < 1e-4 * scale
    assert_close(gradients, expected)


def test_images_that_the_grid_does_not_divide():
    with pytest.raises(ValueError, match="multiples of grid=8, got 30 and 32"):
        MODEL.init(jax.random.key(0), jnp.zeros((1, 30, 32, 3)), train=False)
