"""The optimizer of the descent and its learning rate, as the settings of a run have them."""

import jax.numpy as jnp
import optax

from zsharp_jax.benchmark.runs.settings import Settings


def make_optimizer(settings: Settings, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW, or the Adam of PyTorch, which adds the weight decay to the gradient."""
    rate = learning_rate(settings, steps_per_epoch)
    if settings.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=settings.weight_decay)
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), optax.adam(rate))


def learning_rate(settings: Settings, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at each step, the same throughout an epoch.

    It rises by equal parts from 0 at the first epoch, and is all there `warmup_epochs` later; from
    then on it falls by `decay_rate` every `decay_epochs`.
    """
    warmup = settings.warmup_epochs

    def schedule(step):
        epoch = step // steps_per_epoch
        risen = jnp.minimum(epoch / warmup, 1) if warmup else 1
        decays = jnp.maximum(epoch - warmup, 0) // settings.decay_epochs
        return settings.learning_rate * risen * settings.decay_rate**decays

    return schedule
