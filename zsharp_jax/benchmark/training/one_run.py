"""What one run computes, as functions for `jax.jit` and `jax.vmap`: beginning, step, evaluation."""

import contextlib
import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from zsharp_jax import SamInfo, SamState
from zsharp_jax.benchmark.runs.outcome import BINS
from zsharp_jax.benchmark.training.augmentation import augment
from zsharp_jax.benchmark.training.convolutions import quick_at_once, quick_when_small
from zsharp_jax.benchmark.training.device_data import DeviceData
from zsharp_jax.benchmark.training.steps import MethodSteps

_BATCH = (2, 3)  # the arguments of the loss that hold the batch; the statistics do not


class Carry(NamedTuple):
    """What one step of training hands to the next."""

    state: SamState
    batch_stats: Any


@dataclasses.dataclass(frozen=True)
class OneRun:
    """The functions of a run, which many programs are made of.

    Attributes:
        model: The network.
        steps: Makes the steps of its method.
        batch_size: How many images a step takes.
        crop_padding: By how many black pixels an image is padded before a random crop.
        flip: Whether images are mirrored at random.
        images_at_once: How many are evaluated in a call, at most.
        is_mapped: Whether the functions are mapped over several runs.
    """

    model: nn.Module
    steps: MethodSteps
    batch_size: int
    crop_padding: int
    flip: bool
    images_at_once: int
    is_mapped: bool

    def begin(self, variables: Any) -> Carry:
        batch_stats = variables.get("batch_stats", {})  # a vision transformer has none
        return Carry(self.steps.start(variables["params"]), batch_stats)

    def draw_order(self, key: jax.Array, epoch: jax.Array, images: int) -> jax.Array:
        """The rows of each batch of an epoch."""
        rows = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), images)
        steps = self.steps.steps_per_epoch
        return rows[: steps * self.batch_size].reshape(steps, -1)

    def step(
        self, carry: Carry, data: DeviceData, key: jax.Array, order: jax.Array, rho: jax.Array
    ) -> tuple[Carry, SamInfo]:
        one_step = self.steps.step(self._loss, rho, carry.state.params, _BATCH)
        rows = order[carry.state.step % self.steps.steps_per_epoch]
        augment_key = jax.random.fold_in(jax.random.fold_in(key, 2), carry.state.step)
        images = augment(augment_key, data.train_images[rows], self.crop_padding, self.flip)
        state, info = one_step(
            carry.state, carry.batch_stats, _normalised(images, data), data.train_labels[rows]
        )
        return Carry(state, info.aux), info._replace(aux=None)

    def several_steps(self, count: int, carry: Carry, *inputs: Any) -> tuple[Carry, SamInfo]:
        return jax.lax.scan(lambda carry, _: self.step(carry, *inputs), carry, length=count)

    def evaluate(self, carry: Carry, data: DeviceData, first_row: jax.Array) -> tuple:
        return _sums(*self._predict(carry, data, data.judged, first_row))

    def test(self, carry: Carry, data: DeviceData, first_row: jax.Array) -> tuple:
        predicted = self._predict(carry, data, "test", first_row)
        return *_sums(*predicted), _gaps(*predicted)

    def _loss(self, params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        with quick_at_once() if self.is_mapped else quick_when_small():
            logits, moved = self.model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved.get("batch_stats", {})

    def _predict(self, carry, data, split, first_row):
        images, labels = data.split(split)
        size = len(images)
        rows = first_row + jnp.arange(min(self.images_at_once, size))
        is_there = rows < size  # the last batch is filled up with rows that do not count
        rows = jnp.minimum(rows, size - 1)
        variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
        with quick_at_once() if self.is_mapped else contextlib.nullcontext():
            logits = self.model.apply(variables, _normalised(images[rows], data), train=False)
        return jnp.asarray(logits), labels[rows], is_there


def _normalised(images: jax.Array, data: DeviceData) -> jax.Array:
    return (images.astype(jnp.float32) - data.means) / data.stds


def _sums(logits: jax.Array, labels: jax.Array, is_there: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many answers are right, and the sum of the losses."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = jnp.argmax(logits, axis=-1) == labels
    return jnp.sum(right & is_there), jnp.sum(jnp.where(is_there, losses, 0))


def _gaps(logits: jax.Array, labels: jax.Array, is_there: jax.Array) -> jax.Array:
    """For each bin of the confidence the sum of right answers less confidences."""
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    right = jnp.argmax(logits, axis=-1) == labels
    own_bin = jnp.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = jnp.where(is_there, right - confidence, 0)
    # Not a product, whose factors a GPU may round to TF32.
    return jnp.sum(gaps[:, None] * jax.nn.one_hot(own_bin, BINS), axis=0)
