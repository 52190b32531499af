"""What of a perturbation arrives at bfloat16 weights: in float32, rounded, or to first order.

    python benchmarks/narrow_weights.py --model vit_7_8_8_384

Prints a Markdown table for the first step of a network on random images. What counts is what ε
makes of the gradient, g(w + ε) − g(w): its length and its cosine beside those in float32, where
all of ε arrives.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import sam, zsharp
from zsharp_jax._perturb import at_perturbed
from zsharp_jax.models import MODELS

HEADER = (
    "| ascent, rho | ε, at random | change of the gradient, at random | the same, to nearest "
    "| the same, first order |"
)
ASCENTS = {"sam": sam, "zsharp": zsharp}


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def beside(found, exact):
    length, cosine = np.linalg.norm(found), found @ exact / np.linalg.norm(exact)
    return f"{length / np.linalg.norm(exact):.2f}, {cosine / length:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet8", choices=sorted(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()

    model = MODELS[arguments.model](num_classes=10)
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (arguments.batch, 32, 32, 3))
    labels = jax.random.randint(keys[1], (arguments.batch,), 0, 10)
    variables = jax.jit(lambda: model.init(keys[2], images[:1], False))()
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss_fn(params):
        logits = model.apply({"params": params, **rest}, images, False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)

    gradient_at = jax.jit(jax.grad(loss_fn))
    slope = jax.jit(lambda w, v: jax.jvp(jax.grad(loss_fn), (w,), (v,))[1])
    narrow = optax.tree.cast(variables["params"], jnp.bfloat16)
    wide = optax.tree.cast(narrow, jnp.float32)
    gradients = gradient_at(narrow)
    print(f"{flat(wide).size:,} parameters\n\n{HEADER}\n| --- |{' ---: |' * 4}")

    for name, make_ascent in ASCENTS.items():
        for rho in (0.05, 0.5):
            ascent = make_ascent(rho)
            perturbation, _ = ascent.update(gradients, ascent.init(wide), wide)

            def rounded(choice, perturbation=perturbation):
                return at_perturbed(lambda w: w, narrow, perturbation, gradients, choice)

            exact_point, at_random = rounded("widened"), rounded("rounded")
            nearest = optax.tree.cast(exact_point, jnp.bfloat16)
            exact = flat(gradient_at(exact_point)) - flat(gradient_at(wide))
            columns = [beside(flat(at_random) - flat(wide), flat(exact_point) - flat(wide))]
            columns += [
                beside(flat(gradient_at(point)) - flat(gradients), exact)
                for point in (at_random, nearest)
            ]
            columns.append(beside(flat(slope(narrow, perturbation)), exact))
            print(f"| {name}, {rho} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
