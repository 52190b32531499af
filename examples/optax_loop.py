"""`sharpness_aware` in a plain Optax loop: the optimizer calls back once for the sharp gradient."""

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import sharpness_aware, zsharp


def loss_fn(params, batch):
    inputs, labels = batch
    logits = jax.nn.relu(inputs @ params["hidden"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main(steps=200):
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (512, 2))
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(jnp.int32)  # exclusive or
    params = {
        "hidden": jax.random.normal(keys[1], (2, 32)),
        "head": 0.1 * jax.random.normal(keys[2], (32, 2)),
    }

    schedule = optax.cosine_decay_schedule(1e-2, decay_steps=steps)
    tx = sharpness_aware(optax.adamw(schedule), zsharp(rho=0.05))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, batch):
        def grad_fn(params):
            return jax.grad(loss_fn)(params, batch)  # the same batch for both passes

        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = tx.update(gradients, opt_state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), opt_state, loss

    for i in range(steps):
        rows = jax.random.randint(jax.random.fold_in(keys[3], i), (128,), 0, len(inputs))
        params, opt_state, loss = step(params, opt_state, (inputs[rows], labels[rows]))
        if i % 50 == 0 or i == steps - 1:
            print(f"step {i}: loss {loss:.4f}")
    return float(loss_fn(params, (inputs, labels)))


if __name__ == "__main__":
    main()
