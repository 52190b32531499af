"""What of a perturbation arrives where a network computes in bfloat16 and keeps float32 weights.

    python benchmarks/mixed_precision.py resnet8
    python benchmarks/mixed_precision.py vgg16_bn --steps 10 --batches 2

Trains a few epochs in float32 first: resnet8 on scikit-learn's digits, any other network on images
of 32 pixels that are made here. Prints a Markdown table, means over a few batches. The network sees
the weights rounded to bfloat16, so what arrives of ε is round(w + ε) − round(w): its cosine to ε,
and how long it is along ε (1: all of it). Beside it is how far the loss of the batch rises from w
to w + ε, in float32 and in bfloat16.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import init_state, sam, sam_step, zsharp
from zsharp_jax.benchmark.datasets.images import load_digits
from zsharp_jax.models import MODELS

BATCH = 64
ASCENTS = {"sam": sam, "zsharp": zsharp}
HEADER = "| ascent, rho | along ε | cosine | rise, float32 | rise, bfloat16 |"


def digits() -> tuple[np.ndarray, np.ndarray]:
    dataset = load_digits()
    return dataset.train_images.astype(np.float32) / 8 - 1, dataset.train_labels


def made_images(count: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Noise over a pattern of each of ten classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count).astype(np.int32)
    patterns = rng.normal(size=(10, 32, 32, 3)).astype(np.float32)
    return patterns[labels] / 2 + rng.normal(size=(count, 32, 32, 3)).astype(np.float32), labels


def loss_of(network: str, dtype: jax.typing.DTypeLike):
    model = MODELS[network](num_classes=10, dtype=jnp.dtype(dtype))

    def loss_fn(params, rest, images, labels):
        logits, _ = model.apply({"params": params, **rest}, images, train=True, mutable=list(rest))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    return loss_fn


def trained(network: str, images: np.ndarray, labels: np.ndarray, steps: int):
    """Weights in float32, and what the network has beside them."""
    model = MODELS[network](num_classes=10)
    init = jax.jit(model.init, static_argnames="train")
    variables = init(jax.random.key(0), images[:1], train=False)
    params = variables.pop("params")
    optimizer, ascent = optax.adamw(1e-3), sam(0.05)
    step = sam_step(loss_of(network, jnp.float32), optimizer, ascent)
    state, rng = init_state(params, optimizer, ascent), np.random.default_rng(1)
    loss = np.nan
    for _ in range(steps):
        rows = rng.choice(len(images), BATCH, replace=False)
        state, info = step(state, variables, images[rows], labels[rows])
        loss = info.loss
    print(f"clean loss after {steps} steps: {loss:.3f}\n", flush=True)
    return state.params, variables


@jax.jit
def what_arrives(params, perturbation):
    """Its length along ε, in units of ‖ε‖, and its cosine to ε."""

    def rounded(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), tree)

    there = rounded(optax.tree.add(params, perturbation))
    arrived = optax.tree.sub(there, rounded(params))
    length, along = optax.tree.norm(perturbation), optax.tree.vdot(arrived, perturbation)
    return along / length**2, along / (length * optax.tree.norm(arrived))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", choices=sorted(MODELS))
    parser.add_argument("--steps", type=int, default=100, help="of training before")
    parser.add_argument("--batches", type=int, default=4, help="that are measured")
    arguments = parser.parse_args()

    images, labels = digits() if arguments.network == "resnet8" else made_images()
    params, rest = trained(arguments.network, images, labels, arguments.steps)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{arguments.network}, {size:,} parameters\n", flush=True)
    exact, narrow = (loss_of(arguments.network, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    found = {(name, rho): [] for name in ASCENTS for rho in (0.05, 0.5)}
    losses, gradient_at = [jax.jit(exact), jax.jit(narrow)], jax.jit(jax.grad(narrow))

    for first in range(0, arguments.batches * BATCH, BATCH):
        batch = (rest, images[first : first + BATCH], labels[first : first + BATCH])
        gradients, low = gradient_at(params, *batch), [loss(params, *batch) for loss in losses]
        for (name, rho), rows in found.items():
            ascent = ASCENTS[name](rho)
            perturbation, _ = jax.jit(ascent.update)(gradients, ascent.init(params), params)
            there = optax.tree.add(params, perturbation)
            rises = [loss(there, *batch) - at_w for loss, at_w in zip(losses, low, strict=True)]
            rows.append([*what_arrives(params, perturbation), *rises])

    print(f"{HEADER}\n| --- |{' ---: |' * 4}")
    for (name, rho), rows in found.items():
        along, cosine, wide, narrow_rise = np.mean(np.array(rows, float), axis=0)
        cells = f"{along:.3f} | {cosine:.3f} | {wide:.4f} | {narrow_rise:.4f}"
        print(f"| {name}, {rho} | {cells} |")


if __name__ == "__main__":
    main()
