"""Draws the picture of the first screen: what ZSharp keeps of a gradient, and what that is worth.

    python docs/draw_first_screen.py docs/pictures     # needs the extra bench

A small network learns scikit-learn's handwritten digits. Left: the gradient of one layer and what
the filter keeps. Right: the training loss on the way from w along ε, for the whole gradient, for
the entries that are kept, and for as many entries at random, all at the same ‖ε‖.
"""

import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from zsharp_jax import scale_to_norm, zscore_filter
from zsharp_jax.benchmark.reporting.looks import look_of

QUANTILE = 0.95
SIZES = (64, 48, 48, 10)


def loss_fn(params, images, labels):
    outputs = images
    for i, weights in enumerate(params):
        outputs = outputs @ weights
        outputs = jax.nn.relu(outputs) if i < len(params) - 1 else outputs
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def trained(images, labels, steps=150):
    keys = jax.random.split(jax.random.key(0), len(SIZES) - 1)
    params = [
        jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        for key, shape in zip(keys, itertools.pairwise(SIZES), strict=True)
    ]
    optimizer = optax.adam(1e-3)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss_fn)(params, images, labels), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params


def filtered(gradients):
    outstanding = zscore_filter(QUANTILE)
    return outstanding.update(gradients, outstanding.init(gradients))[0]


def filtered_at_random(gradients, key):
    keys = jax.random.split(key, len(gradients))
    return [
        jnp.where(jax.random.uniform(key, each.shape) > QUANTILE, each, 0)
        for key, each in zip(keys, gradients, strict=True)
    ]


def along(direction, params, lengths, *data):
    """The loss at w + ε for every length of ε."""
    unit, _ = scale_to_norm(1.0).update(direction, scale_to_norm(1.0).init(direction))

    def loss_at(length):
        return loss_fn(optax.tree.add_scale(params, length, unit), *data)

    return np.asarray(jax.lax.map(loss_at, lengths))


def draw(figure, gradients, kept, lengths, losses):
    layer, curves = figure.subplots(1, 2, width_ratios=(1, 1.15))
    gradient, is_kept = np.asarray(gradients[1]), np.asarray(kept[1]) != 0
    size = np.quantile(np.abs(gradient), 0.995)
    pale = layer.imshow(np.abs(gradient), cmap="Greys", vmin=0, vmax=3 * size)
    pale.set_interpolation("nearest")
    chosen = np.ma.masked_where(~is_kept, gradient)
    image = layer.imshow(chosen, cmap="RdBu_r", norm=TwoSlopeNorm(0, -size, size))
    image.set_interpolation("nearest")
    layer.set(title="gradient of the middle layer", xticks=[], yticks=[])
    layer.set(xlabel="coloured: the 5 % that ZSharp keeps", ylabel="48 inputs, 48 outputs")
    figure.colorbar(image, ax=layer, shrink=0.75, label="entry of the gradient")

    methods = ("sam", "zsharp", "zsharp_random")
    for (name, curve), look in zip(losses.items(), map(look_of, methods), strict=True):
        rise = curve - curve[0]
        curves.plot(lengths, rise, markevery=4, **look.of_line | {"linewidth": 2})
        curves.annotate(
            f"  {name}",
            (lengths[-1], rise[-1]),
            color=look.colour,
            va="center",
            annotation_clip=False,
        )
    curves.set(xlabel="length of ε", ylabel="loss at w + ε, less that at w")
    curves.set_title("how far the loss rises along ε")
    curves.set(xticks=(0, 0.5, 1))
    curves.set(xlim=(0, lengths[-1]), ylim=(0, None))
    curves.spines[["top", "right"]].set_visible(False)
    curves.grid(alpha=0.25)


def main(folder):
    digits = load_digits()
    data = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    params = trained(*data)
    gradients = jax.grad(loss_fn)(params, *data)
    kept = filtered(gradients)
    lengths = jnp.linspace(0, 1, 21)
    directions = {
        "SAM: all entries": gradients,
        "ZSharp: 5 %": kept,
        "5 % at random (one draw)": filtered_at_random(gradients, jax.random.key(1)),
    }
    losses = {name: along(each, params, lengths, *data) for name, each in directions.items()}
    for name, curve in losses.items():
        rise = (curve - curve[0])[[len(lengths) // 4, -1]]
        print(f"{name:17} loss rises by {rise[0]:.4f} at length 0.25, {rise[1]:.4f} at 1")

    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, wspace=0.06)
    draw(figure, gradients, kept, lengths, losses)
    layers = "-".join(map(str, SIZES))
    figure.suptitle(f"one network ({layers}) on {len(digits.data):,} handwritten digits", size=10)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "first_screen.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
