"""A Flax linen model with BatchNorm and dropout in a loop of one's own, by `sharp_value_and_grad`.

Both passes see the same batch statistics and the same dropout key; the new statistics come from
the clean pass, so they move once per step. `TrainState.apply_gradients` fits: it gets the gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

try:
    import flax.linen as nn
    from flax.training.train_state import TrainState
except ModuleNotFoundError:
    raise SystemExit('Flax is missing: pip install -e ".[examples]"') from None

from zsharp_jax import sharp_value_and_grad, zsharp


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        outputs = nn.Conv(16, (3, 3), use_bias=False)(images)
        outputs = nn.relu(nn.BatchNorm(use_running_average=not train)(outputs))
        outputs = jnp.mean(outputs, axis=(1, 2))
        outputs = nn.Dropout(0.1, deterministic=not train)(outputs)
        return nn.Dense(2)(outputs)


class SharpTrainState(TrainState):
    batch_stats: Any
    ascent_state: Any


def stripes(key, count):
    """Noisy images of 8 x 8 pixels with upright (0) or level (1) stripes."""
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.bernoulli(label_key, shape=(count,)).astype(jnp.int32)
    upright = jnp.tile(jnp.array([1.0, -1.0]), (8, 4))
    images = jnp.where(labels[:, None, None] == 0, upright[None], upright.T[None])
    return (images + jax.random.normal(noise_key, images.shape))[..., None], labels


def main(steps=60):
    model, ascent = Classifier(), zsharp(rho=0.05)
    images, labels = stripes(jax.random.key(0), 256)
    variables = model.init(jax.random.key(1), images[:1], train=False)
    state = SharpTrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.adam(1e-2),
        batch_stats=variables["batch_stats"],
        ascent_state=ascent.init(variables["params"]),
    )

    def loss_fn(params, batch_stats, images, labels, dropout_key):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates["batch_stats"]

    ascend = sharp_value_and_grad(loss_fn, ascent, has_aux=True)

    @jax.jit
    def step(state, images, labels):
        dropout_key = jax.random.fold_in(jax.random.key(2), state.step)
        (value, sharp_gradients), ascent_state, info = ascend(
            state.params, state.ascent_state, state.batch_stats, images, labels, dropout_key
        )
        _, batch_stats = value
        state = state.apply_gradients(
            grads=sharp_gradients, batch_stats=batch_stats, ascent_state=ascent_state
        )
        return state, info

    for i in range(steps):
        state, info = step(state, images, labels)
        if i % 20 == 0 or i == steps - 1:
            print(f"step {i}: loss {info.loss:.4f}, |eps| {info.perturbation_norm:.4f}")

    test_images, test_labels = stripes(jax.random.key(3), 256)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predicted = jnp.argmax(state.apply_fn(variables, test_images, train=False), axis=-1)
    accuracy = float(jnp.mean(predicted == test_labels))
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
