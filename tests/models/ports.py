"""What every port is held to: a pass over the golden batch, and how close is right."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Port(NamedTuple):
    """A network of the authors' and ours.

    Attributes:
        model: Ours.
        numbers: What theirs gives.
        variables: From `state`, `grad` or `after` to their arrays as our variables.
        pixels: From the path of a statistic to how wide the images are where it is taken.
        unseen: Biases that something behind takes away again: their gradient is rounding alone.
            Each is given by the keys that lead to the layer.
    """

    model: Any
    numbers: Any
    variables: Callable[[str], dict]
    pixels: Callable[[tuple], int] | None = None
    unseen: tuple[tuple[str, ...], ...] = ()


def golden(name):
    return np.load(pathlib.Path(__file__).parents[1] / "golden" / f"model_{name}.npz")


def flax_array(array):
    """PyTorch's (out, in) and OIHW as Flax's (in, out) and HWIO; vectors as they are."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def training_pass(port):
    """((loss, (logits, statistics)), gradients) of the mean cross-entropy of the golden batch."""
    variables, images = port.variables("state"), port.numbers["input"]

    def loss_fn(params):
        logits, moved = port.model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, port.numbers["labels"])
        return jnp.mean(losses), (logits, moved.get("batch_stats", {}))

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])


def assert_close(found, expected):
    """Within 1e-4 of the largest entry of each tensor."""

    def one(a, b):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.max(np.abs(b)), rtol=1e-4)

    jax.tree.map(one, found, expected)


def expected_statistics(port):
    """Flax's statistics from PyTorch's, whose running variance moves by the *unbiased* variance."""
    before, after = (port.variables(when)["batch_stats"] for when in ("state", "after"))

    def one(path, old, new):
        if path[-1].key == "mean":
            return new
        size = len(port.numbers["input"]) * port.pixels(path) ** 2
        return 0.9 * old + (new - 0.9 * old) * (size - 1) / size

    return jax.tree_util.tree_map_with_path(one, before, after)
