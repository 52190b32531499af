"""`jax.pmap` over all devices with Flax's TrainState and BatchNorm, by `sharp_value_and_grad`.

Told the name of the axis, it averages the loss, the statistics and both gradients over the devices:
all take one perturbation, and there is no `pmean` to write. With `groups=jax.device_count()` each
device would take its own instead (m-sharpness).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

try:
    import flax.linen as nn
    from flax import jax_utils
    from flax.training.train_state import TrainState
except ModuleNotFoundError:
    raise SystemExit('Flax is missing: pip install -e ".[examples]"') from None

from zsharp_jax import sharp_value_and_grad, zsharp


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, inputs, train):
        hidden = nn.Dense(32, use_bias=False)(inputs)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        return nn.Dense(2)(hidden)


class SharpTrainState(TrainState):
    batch_stats: Any
    ascent_state: Any


def quadrants(key, *shape):
    """Points of a plane, whose label tells whether their coordinates are of one sign."""
    points = jax.random.normal(key, (*shape, 2))
    return points, (points[..., 0] * points[..., 1] > 0).astype(jnp.int32)


# New code is simpler without: `jax.jit` over a mesh of all devices, as in many_hosts.py.
def main(steps=100):
    model, ascent = Classifier(), zsharp(rho=0.05)
    points, labels = quadrants(jax.random.key(0), jax.local_device_count(), 256)
    variables = model.init(jax.random.key(1), points[0], train=False)
    state = SharpTrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.adam(1e-2),
        batch_stats=variables["batch_stats"],
        ascent_state=ascent.init(variables["params"]),
    )

    def loss_fn(params, batch_stats, points, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, points, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates["batch_stats"]

    ascend = sharp_value_and_grad(loss_fn, ascent, has_aux=True, axis_name="batch")

    @functools.partial(jax.pmap, axis_name="batch")
    def step(state, points, labels):
        ((_, batch_stats), sharp_gradients), ascent_state, info = ascend(
            state.params, state.ascent_state, state.batch_stats, points, labels
        )
        state = state.apply_gradients(
            grads=sharp_gradients, batch_stats=batch_stats, ascent_state=ascent_state
        )
        return state, info

    state = jax_utils.replicate(state)
    for i in range(steps):
        state, info = step(state, points, labels)
        if i % 25 == 0 or i == steps - 1:
            print(f"step {i}: loss {info.loss[0]:.4f}, |eps| {info.perturbation_norm[0]:.4f}")

    state = jax_utils.unreplicate(state)
    test_points, test_labels = quadrants(jax.random.key(2), 512)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predicted = jnp.argmax(state.apply_fn(variables, test_points, train=False), axis=-1)
    accuracy = float(jnp.mean(predicted == test_labels))
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
