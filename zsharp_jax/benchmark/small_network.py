"""A network of four layers on the digits, trained in seconds: what the filter is shown on.

Run files hold no gradients. The picture of what the filter keeps, and the notebook, take theirs
from here.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from zsharp_jax import SamInfo, SamState, init_state, sam_step
from zsharp_jax.benchmark.data import load_digits

WIDTHS = (64, 64, 48, 32, 10)
BATCH_SIZE = 64
_LARGEST_PIXEL = 16


class Trained(NamedTuple):
    """Trainings of the network.

    Attributes:
        params: The weights that each seed ended with.
        curves: Of shape (seeds, epochs): `train_loss` at w and `sharp_loss` at w + perturbation,
            means over the steps of an epoch; `perturbation_norm`, likewise; and `test_accuracy`.
    """

    params: list[Any]
    curves: dict[str, np.ndarray]


@functools.cache
def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images as rows of 64 pixels from 0 to 1, and labels: those to train on, those to test on."""
    data = load_digits()

    def flat(images):
        return images.reshape(len(images), -1) / np.float32(_LARGEST_PIXEL)

    return (
        (flat(data.train_images), data.train_labels),
        (flat(data.test_images), data.test_labels),
    )


def init_params(seed: int) -> dict[str, dict[str, jax.Array]]:
    """The weights at the start, a kernel and a bias for each layer."""
    keys = jax.random.split(jax.random.key(seed), len(WIDTHS) - 1)
    return {
        f"layer_{i + 1}": {
            "kernel": jax.random.normal(keys[i], (inputs, outputs)) / inputs**0.5,
            "bias": jnp.zeros(outputs),
        }
        for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS))
    }


def logits_of(params: dict[str, dict[str, jax.Array]], images: ArrayLike) -> jax.Array:
    """What the network says, of shape (images, 10)."""
    outputs = jnp.asarray(images)
    for i, layer in enumerate(params.values()):
        outputs = jax.nn.relu(outputs) if i else outputs
        outputs = outputs @ layer["kernel"] + layer["bias"].reshape(1, -1)
    return outputs


def loss_fn(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy over a batch."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, images), labels)
    return jnp.mean(losses)


def train(
    ascent: optax.GradientTransformation,
    seeds: Iterable[int],
    epochs: int,
    learning_rate: float = 3e-3,
) -> Trained:
    """Trains the network with AdamW.

    Args:
        ascent: What perturbs the weights; `sam(0)` for bare AdamW.
        seeds: Each decides the weights at the start and the order of the images.
        epochs: How many passes over the training images.
        learning_rate: Of AdamW.
    """
    (images, labels), _ = digits()
    optimizer = optax.adamw(learning_rate)
    epoch = _epoch_of(sam_step(loss_fn, optimizer, ascent))  # compiled once, for all seeds
    all_params, all_told = [], []
    for seed in seeds:
        state = init_state(init_params(seed), optimizer, ascent)
        random, told = np.random.default_rng(seed), []
        for _ in range(epochs):
            order = random.permutation(len(labels))
            batches = order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
            state, means = epoch(state, images[batches], labels[batches])
            told.append((*means, accuracy(state.params)))
        all_params.append(state.params)
        all_told.append(told)
    names = ("train_loss", "sharp_loss", "perturbation_norm", "test_accuracy")
    columns = np.moveaxis(np.array(all_told, float), -1, 0)
    return Trained(all_params, dict(zip(names, columns, strict=True)))


def _epoch_of(
    step: Callable[..., tuple[SamState, SamInfo]],
) -> Callable[..., tuple[SamState, tuple[jax.Array, ...]]]:
    """Steps through batches, and tells the means of what the steps tell."""

    def one_step(state, batch):
        state, info = step(state, *batch)
        return state, (info.loss, info.sharp_loss, info.perturbation_norm)

    def epoch(state, images, labels):
        state, told = jax.lax.scan(one_step, state, (images, labels))
        return state, tuple(map(jnp.mean, told))

    return jax.jit(epoch)


@jax.jit
def accuracy(params: Any) -> jax.Array:
    """The share of all test images that are classified right."""
    _, (images, labels) = digits()
    return jnp.mean(jnp.argmax(logits_of(params, images), axis=-1) == labels)


def gradients_at(params: Any) -> Any:
    """The gradient over the first batch of training images, from which an ascent step is made."""
    (images, labels), _ = digits()
    return jax.jit(jax.grad(loss_fn))(params, images[:BATCH_SIZE], labels[:BATCH_SIZE])
