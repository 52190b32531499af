"""A Flax NNX model with BatchNorm: split into parameters and the rest, trained by `sam_step`.

The rest (statistics, PRNG counters) goes in as an input and comes out as aux of the clean pass, so
BatchNorm moves once per step, and both passes draw the same dropout mask.
"""

import jax
import jax.numpy as jnp
import optax

try:
    from flax import nnx
except ModuleNotFoundError:
    raise SystemExit('Flax is missing: pip install -e ".[examples]"') from None

from zsharp_jax import init_state, sam_step, zsharp


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, inputs):
        outputs = nnx.relu(self.norm(self.hidden(inputs)))
        return self.head(self.dropout(outputs))


def rings(key, count):
    """Points of two classes: inside or outside a circle."""
    inputs = jax.random.normal(key, (count, 2))
    return inputs, (jnp.sum(inputs**2, axis=1) > 1.4).astype(jnp.int32)


def main(steps=100):
    graphdef, params, rest = nnx.split(Classifier(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, rest, inputs, labels):
        model = nnx.merge(graphdef, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels)
        _, _, moved = nnx.split(model, nnx.Param, ...)
        return losses.mean(), moved

    optimizer, ascent = optax.adamw(1e-2), zsharp(rho=0.05)
    state = init_state(params, optimizer, ascent)
    step = sam_step(loss_fn, optimizer, ascent, has_aux=True)

    inputs, labels = rings(jax.random.key(1), 512)
    for i in range(steps):
        state, info = step(state, rest, inputs, labels)
        rest = info.aux
        if i % 25 == 0 or i == steps - 1:
            print(f"step {i}: loss {info.loss:.4f}, |eps| {info.perturbation_norm:.4f}")

    model = nnx.merge(graphdef, state.params, rest)
    model.eval()
    test_inputs, test_labels = rings(jax.random.key(2), 512)
    accuracy = float(jnp.mean(jnp.argmax(model(test_inputs), axis=-1) == test_labels))
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
