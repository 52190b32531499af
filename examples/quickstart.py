"""ZSharp on a two-layer network in plain JAX: one compiled step, and what it tells about itself."""

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import init_state, sam_step, zsharp


def loss_fn(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["hidden"])
    return jnp.mean((hidden @ params["head"] - targets) ** 2)


def main(steps=300):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (256, 8))
    targets = jnp.sin(inputs).sum(axis=1, keepdims=True)
    params = {
        "hidden": 0.3 * jax.random.normal(keys[1], (8, 64)),
        "head": 0.3 * jax.random.normal(keys[2], (64, 1)),
    }

    optimizer, ascent = optax.adam(1e-2), zsharp(rho=0.05, quantile=0.95)
    state = init_state(params, optimizer, ascent)
    step = sam_step(loss_fn, optimizer, ascent)
    for i in range(steps):
        state, info = step(state, inputs, targets)
        if i % 100 == 0 or i == steps - 1:
            print(f"step {i}: loss {info.loss:.4f}, at w + eps {info.sharp_loss:.4f}")
    return float(loss_fn(state.params, inputs, targets))


if __name__ == "__main__":
    main()
