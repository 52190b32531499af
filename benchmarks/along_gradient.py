"""How far along the gradient ascents go: the cosine of ε and g, along a training.

    pip install -e ".[bench]"
    python benchmarks/along_gradient.py

Trains resnet8 on handwritten digits, of whose training labels a share is wrong, with AdamW. Before
the first batch of some epochs it takes the gradient of that batch and the ε of every ascent, and
prints a Markdown table: the cosine's mean, lowest and highest value.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import side_by_side

from zsharp_jax import magnitude_filter, sam, scale_to_norm, zsharp, zsharp_reference
from zsharp_jax.benchmark.datasets.images import load
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.runs.random_mask import keep_at_random
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training.images import RunImages
from zsharp_jax.benchmark.training.program import compile_program
from zsharp_jax.models import MODELS

EPOCHS = (0, 1, 2, 5, 10, 20, 30, 39)
HEADER = ("ascent", "cosine of ε and g", "lowest", "highest", "gradients")


def main() -> None:
    parser = argparse.ArgumentParser(description="The cosine of ascents with the gradient.")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default: %(default)s)")
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, help="before which")
    parser.add_argument("--quantiles", type=float, nargs="+", default=[0.95], help="default: 0.95")
    parser.add_argument("--label-noise", type=float, default=0.4, help="default: %(default)s")
    options = parser.parse_args()
    images = RunImages(load("digits", Origin()))
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        settings = Settings(
            dataset="digits",
            model="resnet8",
            method="adamw",
            seed=seed,
            epochs=1 + max(options.epochs),
            batch_size=100,
            crop_padding=0,
            flip=False,
            label_noise=options.label_noise,
            split_seed=True,
        )
        for cosines in along_a_training(settings, images, options.epochs, options.quantiles):
            for name, cosine in cosines.items():
                found.setdefault(name, []).append(float(cosine))
    rows = [
        [
            name,
            f"{statistics.fmean(each):.3f}",
            f"{min(each):.3f}",
            f"{max(each):.3f}",
            str(len(each)),
        ]
        for name, each in found.items()
    ]
    print(side_by_side.markdown(HEADER, rows))


def along_a_training(settings: Settings, images: RunImages, epochs: Any, quantiles: Any) -> Any:
    """Yields the cosine of each ascent with the gradient, before the first batch of each epoch."""
    program = compile_program(settings, images.of(settings))
    model, data = MODELS[settings.model](num_classes=10), program.data
    key, made = jax.random.key(settings.seed), ascents(quantiles)

    @jax.jit
    def cosines(carry, rows):
        def loss_fn(params):
            batch = (data.train_images[rows].astype(jnp.float32) - data.means) / data.stds
            variables = {"params": params, "batch_stats": carry.batch_stats}
            logits, _ = model.apply(variables, batch, train=True, mutable=["batch_stats"])
            labels = data.train_labels[rows]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        params = carry.state.params
        gradient = jax.grad(loss_fn)(params)
        return {
            name: cosine(ascent.update(gradient, ascent.init(params), params)[0], gradient)
            for name, ascent in made.items()
        }

    carry = program.start(key)
    for epoch in range(1 + max(epochs)):
        order = program.draw_order(key, np.int32(epoch))
        if epoch in epochs:
            yield cosines(carry, order[0])
        for _ in range(program.steps_per_epoch):
            carry, _ = program.step(carry, data, key, order, np.float32(0))


def ascents(quantiles: Sequence[float]) -> dict[str, optax.GradientTransformation]:
    """Those of the study, with a length of 1."""
    scaled = scale_to_norm(1.0)
    made = {"sam": sam(1.0), "sam_layerwise": scale_to_norm(1.0, scope="layer")}
    for quantile in quantiles:
        of_quantile = {
            "zsharp": zsharp(1.0, quantile),
            "zsharp_reference": zsharp_reference(1.0, quantile),
            "magnitude": optax.chain(magnitude_filter(quantile), scaled),
            "zsharp_random": optax.chain(keep_at_random(quantile), scaled),
        }
        made |= {f"{name} Q{quantile:g}": ascent for name, ascent in of_quantile.items()}
    return made


def cosine(one: optax.Updates, other: optax.Updates) -> jax.Array:
    lengths = optax.tree.norm(one) * optax.tree.norm(other)
    return jnp.asarray(optax.tree.vdot(one, other) / lengths)


if __name__ == "__main__":
    main()
