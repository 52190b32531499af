"""A network of four layers on the digits, trained in seconds: what the filter is shown on.

Run files hold no gradients, so the picture of what the filter keeps takes its gradient from here.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from zsharp_jax.benchmark.datasets.images import load_digits

WIDTHS = (64, 64, 48, 32, 10)
BATCH_SIZE = 64
_LARGEST_PIXEL = 16


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The training images as rows of 64 pixels from 0 to 1, and their labels."""
    data = load_digits()
    images = data.train_images.reshape(len(data.train_images), -1)
    return images / np.float32(_LARGEST_PIXEL), data.train_labels


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


def loss_fn(params: Any, images: ArrayLike, labels: ArrayLike) -> jax.Array:
    """The mean cross-entropy over a batch."""
    outputs = jnp.asarray(images)
    for i, layer in enumerate(params.values()):
        outputs = jax.nn.relu(outputs) if i else outputs
        outputs = outputs @ layer["kernel"] + layer["bias"].reshape(1, -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.asarray(labels))
    return jnp.mean(losses)


def train(epochs: int, seed: int = 0, learning_rate: float = 3e-3) -> Any:
    """Trains the network with AdamW, and returns its weights.

    Args:
        epochs: How many passes over the training images.
        seed: Decides the weights at the start and the order of the images.
        learning_rate: Of AdamW.
    """
    images, labels = digits()
    optimizer = optax.adamw(learning_rate)

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss_fn)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    one_epoch = jax.jit(lambda *given: jax.lax.scan(step, *given)[0])
    params, random = init_params(seed), np.random.default_rng(seed)
    carry = params, optimizer.init(params)
    for _ in range(epochs):
        order = random.permutation(len(labels))
        batches = order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        carry = one_epoch(carry, (images[batches], labels[batches]))
    return carry[0]


def gradients_at(params: Any) -> Any:
    """The gradient over the first batch of training images, from which an ascent step is made."""
    images, labels = digits()
    return jax.jit(jax.grad(loss_fn))(params, images[:BATCH_SIZE], labels[:BATCH_SIZE])
