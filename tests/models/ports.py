"""What every port is held to: a pass over the golden batch, and how close is right."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax


def golden(name):
    return np.load(pathlib.Path(__file__).parents[1] / "golden" / f"model_{name}.npz")


def flax_array(array):
    """PyTorch's (out, in) and OIHW as Flax's (in, out) and HWIO; vectors as they are."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def training_pass(model, variables, numbers):
    """((loss, (logits, statistics)), gradients) of the mean cross-entropy of the golden batch."""

    def loss_fn(params):
        logits, moved = model.apply(
            {**variables, "params": params}, numbers["input"], train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, numbers["labels"])
        return jnp.mean(losses), (logits, moved.get("batch_stats", {}))

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])


def assert_close(found, expected):
    """Within 1e-4 of the largest entry of each tensor."""

    def one(a, b):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.max(np.abs(b)), rtol=1e-4)

    jax.tree.map(one, found, expected)


def expected_statistics(before, after, pixels):
    """Flax's statistics from PyTorch's, whose running variance moves by the *unbiased* variance.

    PIXELS tells from the path of a statistic how wide the images are where it is taken.
    """

    def one(path, old, new):
        if path[-1].key == "mean":
            return new
        size = 8 * pixels(path) ** 2
        return 0.9 * old + (new - 0.9 * old) * (size - 1) / size

    return jax.tree_util.tree_map_with_path(one, before, after)
