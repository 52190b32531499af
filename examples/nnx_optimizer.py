"""`nnx.Optimizer` with BatchNorm and dropout: an NNX loop needs three lines more, marked below.

Both passes draw the same dropout mask, and BatchNorm's statistics move once per step, in the clean
pass. For that the sharp pass starts from a clone of the model, made before the clean pass moves it.
"""

import jax
import jax.numpy as jnp
import optax

try:
    from flax import nnx
except ModuleNotFoundError:
    raise SystemExit('Flax is missing: pip install -e ".[examples]"') from None

from zsharp_jax import sharpness_aware, zsharp


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, inputs):
        outputs = nnx.relu(self.norm(self.hidden(inputs)))
        return self.head(self.dropout(outputs))


def loss_fn(model, inputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()


@nnx.jit
def train_step(model, optimizer, inputs, labels):
    graphdef, _, rest = nnx.split(nnx.clone(model), nnx.Param, ...)  # 1

    def sharp_loss(params):  # 2
        return loss_fn(nnx.merge(graphdef, params, rest, copy=True), inputs, labels)

    loss, gradients = nnx.value_and_grad(loss_fn)(model, inputs, labels)
    optimizer.update(model, gradients, grad_fn=jax.grad(sharp_loss))  # 3
    return loss


def rings(key, count):
    """Points of two classes: inside or outside a circle."""
    inputs = jax.random.normal(key, (count, 2))
    return inputs, (jnp.sum(inputs**2, axis=1) > 1.4).astype(jnp.int32)


def main(steps=100):
    model = Classifier(nnx.Rngs(0))
    tx = sharpness_aware(optax.adamw(1e-2), zsharp(rho=0.05))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    inputs, labels = rings(jax.random.key(1), 512)
    for i in range(steps):
        loss = train_step(model, optimizer, inputs, labels)
        if i % 25 == 0 or i == steps - 1:
            length = optimizer.opt_state.perturbation_norm.get_value()
            print(f"step {i}: loss {loss:.4f}, perturbation {length:.4f}")

    model.eval()
    test_inputs, test_labels = rings(jax.random.key(2), 512)
    accuracy = float(jnp.mean(jnp.argmax(model(test_inputs), axis=-1) == test_labels))
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
