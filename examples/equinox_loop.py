"""An Equinox model in a loop with Optax: `eqx.partition` takes the parameters out of it."""

import jax
import jax.numpy as jnp
import optax

try:
    import equinox as eqx
except ModuleNotFoundError:
    raise SystemExit('Equinox is missing: pip install -e ".[examples]"') from None

from zsharp_jax import sharpness_aware, zsharp


def rings(key, count):
    """Points of two classes: inside or outside a circle."""
    inputs = jax.random.normal(key, (count, 2))
    return inputs, (jnp.sum(inputs**2, axis=1) > 1.4).astype(jnp.int32)


def main(steps=150):
    model = eqx.nn.MLP(2, 2, width_size=64, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = sharpness_aware(optax.adamw(1e-2), zsharp(rho=0.05))
    opt_state = tx.init(params)

    def loss_fn(params, inputs, labels):
        logits = jax.vmap(eqx.combine(params, static))(inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, opt_state, inputs, labels):
        loss, gradients = jax.value_and_grad(loss_fn)(params, inputs, labels)
        updates, opt_state = tx.update(
            gradients,
            opt_state,
            params,
            grad_fn=lambda params: jax.grad(loss_fn)(params, inputs, labels),
        )
        return optax.apply_updates(params, updates), opt_state, loss

    inputs, labels = rings(jax.random.key(1), 512)
    for i in range(steps):
        params, opt_state, loss = step(params, opt_state, inputs, labels)
        if i % 50 == 0 or i == steps - 1:
            print(f"step {i}: loss {loss:.4f}, perturbation {opt_state.perturbation_norm:.4f}")

    model = eqx.combine(params, static)
    test_inputs, test_labels = rings(jax.random.key(2), 512)
    accuracy = float(jnp.mean(jnp.argmax(jax.vmap(model)(test_inputs), axis=-1) == test_labels))
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
