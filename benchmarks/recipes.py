"""Test accuracy and passes a step of the recipes in docs/recipes.md.

    python benchmarks/recipes.py --seeds 5          # prints the table; needs the extra bench

A network with one hidden layer and a LayerNorm learns scikit-learn's digits; 40 % of its training
labels are replaced by random other ones. It has enough weights to learn the wrong labels too, which
is where a flat minimum can help. All recipes start from the same weights and see the same batches.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from zsharp_jax import (
    asam,
    init_state,
    look_back,
    masked_ascent,
    periodic_rho,
    sam,
    sam_step,
    scale_to_norm,
    surrogate_gap,
    zsharp,
)

WRONG, EPOCHS, BATCH, HIDDEN, TEST = 0.4, 60, 128, 256, 360
STEPS_AN_EPOCH = (1797 - TEST) // BATCH
LATE = round(0.8 * EPOCHS) * STEPS_AN_EPOCH
RHO = 0.5


class Recipe(NamedTuple):
    """How to train.

    Attributes:
        passes: Gradients a step, as a share of the whole batch.
        ascent: From the gradient to ε.
        links: What stands in front of the optimizer.
        options: More arguments of `sam_step`.
    """

    passes: float
    ascent: optax.GradientTransformation
    links: tuple[optax.GradientTransformation, ...] = ()
    options: Mapping[str, Any] = {}


def is_norm(params):
    """True for the parameters of normalisation layers."""
    return {name: name == "norm" for name in params}


def centre():
    """Takes the mean over all axes but the last, which is the output channel in Flax."""

    def centred(gradient):
        if gradient.ndim < 2:
            return gradient
        return gradient - jnp.mean(gradient, axis=range(gradient.ndim - 1), keepdims=True)

    return optax.stateless(lambda gradients, params: jax.tree.map(centred, gradients))


def sometimes(**when):
    return lambda rho: Recipe(1.2, sam(periodic_rho(rho, **when)), (), {"plain_if_zero": True})


RECIPES: dict[str, Callable[[float], Recipe]] = {
    "Adam, no ascent": lambda rho: Recipe(1, sam(0.0)),
    "SAM": lambda rho: Recipe(2, sam(rho)),
    "ZSharp": lambda rho: Recipe(2, zsharp(rho)),
    "SAM in the last fifth": sometimes(start=LATE),
    "SAM in every fifth step": sometimes(every=5),
    "SAM, one pass": lambda rho: Recipe(1, sam(rho), (), {"one_pass": True}),
    "ZSharp, one pass": lambda rho: Recipe(1, zsharp(rho), (), {"one_pass": True}),
    "ASAM, one pass": lambda rho: Recipe(1, asam(rho), (), {"one_pass": True}),
    "SAM, a quarter for the ascent": lambda rho: Recipe(1.25, sam(rho), (), {"ascent_share": 0.25}),
    "ZSharp, a quarter for the ascent": lambda rho: Recipe(
        1.25, zsharp(rho), (), {"ascent_share": 0.25}
    ),
    "LookSAM, every fifth step": lambda rho: sometimes(every=5)(rho)._replace(links=(look_back(),)),
    "ZSharp with GSAM": lambda rho: Recipe(2, zsharp(rho), (surrogate_gap(),)),
    "normalisation layers only": lambda rho: Recipe(2, masked_ascent(sam(rho), is_norm)),
    "centred gradient": lambda rho: Recipe(2, optax.chain(centre(), scale_to_norm(rho))),
}


def init_params(key):
    hidden, head = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden, (64, HIDDEN)) / 8,
        "norm": {"scale": jnp.ones(HIDDEN), "bias": jnp.zeros(HIDDEN)},
        "head": jax.random.normal(head, (HIDDEN, 10)) / HIDDEN**0.5,
    }


def logits_of(params, images):
    hidden, norm = jax.nn.standardize(images @ params["hidden"]), params["norm"]
    return jax.nn.relu(hidden * norm["scale"] + norm["bias"]) @ params["head"]


def loss_fn(params, images, labels):
    logits = logits_of(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def data_of(seed):
    """Training images and labels, 40 % of them wrong; the order of all batches; the test set."""
    random = np.random.default_rng(seed)
    digits: Any = load_digits()
    split = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = (digits.data[split] / 16).astype(np.float32), digits.target[split]
    test, train = (images[:TEST], labels[:TEST]), (images[TEST:], labels[TEST:].copy())
    wrong = random.random(len(train[1])) < WRONG
    train[1][wrong] = (train[1][wrong] + random.integers(1, 10, wrong.sum())) % 10
    orders = [random.permutation(len(train[1])) for _ in range(EPOCHS)]
    rows = np.concatenate([each[: STEPS_AN_EPOCH * BATCH] for each in orders])
    return *train, rows.reshape(-1, BATCH), *test


def accuracies(recipe, seeds):
    """Test accuracy of each seed after the last step, in per cent."""
    optimizer = optax.chain(*recipe.links, optax.adam(4e-3))
    step = sam_step(loss_fn, optimizer, recipe.ascent, **recipe.options)

    def one_seed(key, images, labels, batches, *test):
        one_pass = recipe.options.get("one_pass", False)
        state = init_state(init_params(key), optimizer, recipe.ascent, one_pass=one_pass)

        def one_step(state, rows):
            return step(state, images[rows], labels[rows])[0], None

        state, _ = jax.lax.scan(one_step, state, batches)
        test_images, test_labels = test
        return jnp.mean(jnp.argmax(logits_of(state.params, test_images), axis=1) == test_labels)

    data = [np.stack(each) for each in zip(*map(data_of, range(seeds)), strict=True)]
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return 100 * np.asarray(jax.jit(jax.vmap(one_seed))(keys, *data))


def main():
    parser = argparse.ArgumentParser(description="Measures the recipes of docs/recipes.md.")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2 (default: 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=RECIPES, default=RECIPES)
    parser.add_argument("--rho", type=float, default=RHO, help=f"length of ε (default: {RHO})")
    options = parser.parse_args()
    print("| recipe | passes a step | test acc. % |\n| --- | ---: | ---: |", flush=True)
    for name in options.only:
        recipe = RECIPES[name](options.rho)
        found = accuracies(recipe, options.seeds)
        spread = f"{found.mean():.1f} ± {found.std(ddof=1):.1f}"
        print(f"| {name} | {recipe.passes:g} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
