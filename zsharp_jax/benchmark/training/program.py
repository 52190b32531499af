"""What is compiled once for all seeds and rhos of a method: start, step and evaluation.

The images stay on the device as uint8; drawing a batch, crop, flip, both passes and the update are
one compiled step.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax import SamInfo, SamState
from zsharp_jax.benchmark.datasets.images import Dataset
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.outcome import BINS
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training.augmentation import augment
from zsharp_jax.benchmark.training.convolutions import quick_when_small
from zsharp_jax.benchmark.training.steps import MethodSteps
from zsharp_jax.models import MODELS

_MOST_TEST_IMAGES = 500  # evaluated at once
_MOST_STEPS = 100  # taken at once: the progress bar moves, and a Ctrl-C is noticed, between calls


class Carry(NamedTuple):
    """What one step of training hands to the next."""

    state: SamState
    batch_stats: Any


class DeviceData(NamedTuple):
    """A dataset on the device."""

    train_images: jax.Array
    train_labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array
    validation_images: jax.Array | None
    validation_labels: jax.Array | None
    means: jax.Array
    stds: jax.Array

    @property
    def judged(self) -> str:
        """What a run is judged on after every epoch."""
        return "test" if self.validation_images is None else "validation"

    def split(self, name: str) -> tuple[jax.Array, jax.Array]:
        """The images and labels of `test` or `validation`."""
        return getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")


@functools.lru_cache(maxsize=1)  # for all methods that are trained on it
def on_device(dataset: Dataset) -> DeviceData:
    """Moves a dataset to the device, with the mean and standard deviation of each channel."""
    arrays = {name: getattr(dataset, name) for name in DeviceData._fields[:6]}
    means, stds = (part.reshape(1, 1, 1, -1) for part in dataset.channel_statistics())
    return DeviceData(**jax.device_put(arrays | {"means": means, "stds": stds}))


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once for all seeds and rhos of a method.

    Attributes:
        data: The dataset on the device; one of the same shapes may stand in its place.
        steps_per_epoch: How many whole batches the training images give.
        steps_at_once: How many steps a call of `step` takes: one on a CPU, and elsewhere as many as
            divide both an epoch and the run.
        images_at_once: How many images are evaluated in a call, or all of a split with fewer.
        start: From a seed's key to the first `Carry`.
        draw_order: From a seed's key and an epoch to the rows of each batch, (steps, batch size).
        step: From `Carry`, data, key, order and rho to the next `Carry` and what the step tells;
            what several steps tell is stacked.
        evaluate: From `Carry`, data and the first row to the sums of right answers and losses, of
            the images that a run is judged on after every epoch.
        test: The same of the test images, and for each of `BINS` bins of the confidence the sum of
            right answers less confidences; None where they are what a run is judged on.
        compile_seconds: How long compiling took.
    """

    data: DeviceData
    steps_per_epoch: int
    steps_at_once: int
    images_at_once: int
    start: Callable[..., Carry]
    draw_order: Callable[..., jax.Array]
    step: Callable[..., tuple[Carry, SamInfo]]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]]
    test: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] | None
    compile_seconds: float


def compile_program(settings: Settings, dataset: Dataset) -> Program:
    """Compiles all that the runs of one method need; seed and rho of `settings` play no part.

    Args:
        settings: What to train.
        dataset: What to train on, at least a batch.

    Returns:
        The compiled program, with the data on the device.

    Raises:
        RequestError: If the model does not take images of the size of the dataset's.
    """
    started = time.perf_counter()
    size = len(dataset.train_images)
    steps_per_epoch = size // settings.batch_size
    data = on_device(dataset)
    model = MODELS[settings.model](num_classes=dataset.num_classes, dtype=jnp.dtype(settings.dtype))
    initialise = _initialiser(model, settings, dataset)
    variables = initialise.out_info
    steps = MethodSteps(settings, steps_per_epoch)

    def normalise(images, data):
        return (images.astype(jnp.float32) - data.means) / data.stds

    def loss_fn(params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        with quick_when_small():
            logits, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved.get("batch_stats", {})

    def begin(variables):
        batch_stats = variables.get("batch_stats", {})  # a vision transformer has none
        return Carry(steps.start(variables["params"]), batch_stats)

    def draw_order(key, epoch):
        rows = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), size)
        return rows[: steps_per_epoch * settings.batch_size].reshape(steps_per_epoch, -1)

    def step(carry, data, key, order, rho):
        one_step = steps.step(loss_fn, rho, carry.state.params)
        rows = order[carry.state.step % steps_per_epoch]
        augment_key = jax.random.fold_in(jax.random.fold_in(key, 2), carry.state.step)
        images = augment(augment_key, data.train_images[rows], *_augmentation(settings, dataset))
        state, info = one_step(
            carry.state, carry.batch_stats, normalise(images, data), data.train_labels[rows]
        )
        return Carry(state, info.aux), info._replace(aux=None)

    steps_at_once = _steps_at_once(steps_per_epoch, settings.steps, jax.default_backend())

    def several_steps(carry, *inputs):
        return jax.lax.scan(lambda carry, _: step(carry, *inputs), carry, length=steps_at_once)

    def predict(carry, data, name, first_row):
        images, labels = data.split(name)
        size = len(images)
        rows = first_row + jnp.arange(min(_MOST_TEST_IMAGES, size))
        is_there = rows < size  # the last batch is filled up with rows that do not count
        rows = jnp.minimum(rows, size - 1)
        variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
        logits = jnp.asarray(model.apply(variables, normalise(images[rows], data), train=False))
        return logits, labels[rows], is_there

    def evaluate(carry, data, first_row):
        return _sums(*predict(carry, data, data.judged, first_row))

    def test(carry, data, first_row):
        predicted = predict(carry, data, "test", first_row)
        return *_sums(*predicted), _gaps(*predicted)

    key, number, rho = jax.eval_shape(jax.random.key, 0), np.int32(0), np.float32(0)
    carry, order = jax.eval_shape(begin, variables), jax.eval_shape(draw_order, key, number)
    compiled_begin = jax.jit(begin).lower(variables).compile()
    compiled_order = jax.jit(draw_order).lower(key, number).compile()
    call = step if steps_at_once == 1 else several_steps
    compiled_call = jax.jit(call, donate_argnums=0).lower(carry, data, key, order, rho).compile()
    compiled_evaluate = jax.jit(evaluate).lower(carry, data, number).compile()
    compiled_test = None
    if data.judged != "test":
        compiled_test = jax.jit(test).lower(carry, data, number).compile()
    return Program(
        data,
        steps_per_epoch,
        steps_at_once,
        _MOST_TEST_IMAGES,
        lambda key: compiled_begin(initialise(key)),
        compiled_order,
        compiled_call,
        compiled_evaluate,
        compiled_test,
        compile_seconds=time.perf_counter() - started,
    )


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
    return gaps @ jax.nn.one_hot(own_bin, BINS)


def _steps_at_once(steps_per_epoch: int, steps: int | None, platform: str) -> int:
    """See `Program`; `steps` is how many the run takes where it does not take whole epochs."""
    if platform == "cpu":  # where XLA convolves far more slowly inside a compiled loop
        return 1
    common = math.gcd(steps_per_epoch, steps or steps_per_epoch)
    return max(count for count in range(1, _MOST_STEPS + 1) if common % count == 0)


def _augmentation(settings: Settings, dataset: Dataset) -> tuple[int, bool]:
    padding, flip = settings.crop_padding, settings.flip
    return (
        dataset.crop_padding if padding is None else padding,
        dataset.flip if flip is None else flip,
    )


def _initialiser(model: nn.Module, settings: Settings, dataset: Dataset) -> jax.stages.Compiled:
    try:
        return _compiled_init(model, dataset.train_images.shape[1:])
    except ValueError as error:  # the images are of a size that the model does not take
        reason = str(error).rstrip(".")
        raise RequestError(f"{settings.model} does not fit {settings.dataset}: {reason}") from None


@functools.lru_cache(maxsize=1)
def _compiled_init(model: nn.Module, image: tuple[int, ...]) -> jax.stages.Compiled:
    """From a seed's key to the initial variables of a model.

    They are the same for all methods that are compared, and XLA takes long over random numbers.
    """

    def initialise(key):
        return model.init(jax.random.fold_in(key, 0), jnp.zeros((1, *image)), train=False)

    return jax.jit(initialise).lower(jax.eval_shape(jax.random.key, 0)).compile()
