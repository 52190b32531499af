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

from zsharp_jax import SamInfo, SamState, init_state, sam_step
from zsharp_jax.benchmark.augment import augment
from zsharp_jax.benchmark.data import Dataset
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.methods import ETA, METHODS, filtered_tensors
from zsharp_jax.benchmark.optimizers import make_optimizer
from zsharp_jax.benchmark.settings import Settings
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


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once for all seeds and rhos of a method.

    Attributes:
        data: The dataset on the device.
        steps_per_epoch: How many whole batches the training images give.
        steps_at_once: How many steps a call of `step` takes: one on a CPU, and elsewhere as many as
            divide both an epoch and the run.
        test_batch: How many test images are evaluated at once.
        start: From a seed's key to the first `Carry`.
        draw_order: From a seed's key and an epoch to the rows of each batch, (steps, batch size).
        step: From `Carry`, data, key, order and rho to the next `Carry` and what the step tells;
            what several steps tell is stacked.
        evaluate: From `Carry`, data and the first row to the sums of right answers and losses.
        compile_seconds: How long compiling took.
    """

    data: DeviceData
    steps_per_epoch: int
    steps_at_once: int
    test_batch: int
    start: Callable[..., Carry]
    draw_order: Callable[..., jax.Array]
    step: Callable[..., tuple[Carry, SamInfo]]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]]
    compile_seconds: float


def plain_step(
    loss_fn: Callable[..., Any], optimizer: optax.GradientTransformation
) -> Callable[..., tuple[SamState, SamInfo]]:
    """The bare optimizer's step, told as `sam_step` tells its own: no perturbation, one loss."""

    def step(state: SamState, *inputs: Any) -> tuple[SamState, SamInfo]:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, *inputs)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        info = SamInfo(loss, loss, optax.tree.norm(gradients), jnp.zeros_like(loss), aux)
        return state._replace(params=params, opt_state=opt_state, step=state.step + 1), info

    return step


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
    data = DeviceData(
        *jax.device_put(
            (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
        )
    )
    means, stds = dataset.channel_statistics()
    model = MODELS[settings.model](num_classes=dataset.num_classes, dtype=jnp.dtype(settings.dtype))
    initialise = _initialiser(model, settings, dataset)
    variables = initialise.out_info
    optimizer = make_optimizer(settings, steps_per_epoch)

    def normalise(images):
        return (images.astype(jnp.float32) - means.reshape(1, 1, 1, -1)) / stds.reshape(1, 1, 1, -1)

    def loss_fn(params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved.get("batch_stats", {})

    def begin(variables):
        batch_stats = variables.get("batch_stats", {})  # a vision transformer has none
        ascent = ascent_of(settings, rho=0.0, params=variables["params"])
        return Carry(init_state(variables["params"], optimizer, ascent), batch_stats)

    def draw_order(key, epoch):
        rows = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), size)
        return rows[: steps_per_epoch * settings.batch_size].reshape(steps_per_epoch, -1)

    def step(carry, data, key, order, rho):
        if METHODS[settings.method] is None:
            one_step = plain_step(loss_fn, optimizer)
        else:
            ascent = ascent_of(settings, rho, carry.state.params)
            one_step = sam_step(loss_fn, optimizer, ascent, has_aux=True)
        rows = order[carry.state.step % steps_per_epoch]
        augment_key = jax.random.fold_in(jax.random.fold_in(key, 2), carry.state.step)
        images = augment(augment_key, data.train_images[rows], *_augmentation(settings, dataset))
        state, info = one_step(
            carry.state, carry.batch_stats, normalise(images), data.train_labels[rows]
        )
        return Carry(state, info.aux), info._replace(aux=None)

    steps_at_once = _steps_at_once(steps_per_epoch, settings.steps, jax.default_backend())

    def several_steps(carry, *inputs):
        return jax.lax.scan(lambda carry, _: step(carry, *inputs), carry, length=steps_at_once)

    test_size = len(dataset.test_images)
    test_batch = min(_MOST_TEST_IMAGES, test_size)

    def evaluate(carry, data, first_row):
        rows = first_row + jnp.arange(test_batch)
        is_there = rows < test_size  # the last batch is filled up with rows that do not count
        images = data.test_images[jnp.minimum(rows, test_size - 1)]
        labels = data.test_labels[jnp.minimum(rows, test_size - 1)]
        variables = {"params": carry.state.params, "batch_stats": carry.batch_stats}
        logits = jnp.asarray(model.apply(variables, normalise(images), train=False))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = jnp.argmax(logits, axis=-1) == labels
        return jnp.sum(right & is_there), jnp.sum(jnp.where(is_there, losses, 0))

    key, number, rho = jax.random.key(0), np.int32(0), np.float32(0)
    carry, order = jax.eval_shape(begin, variables), jax.eval_shape(draw_order, key, number)
    compiled_begin = jax.jit(begin).lower(variables).compile()
    compiled_order = jax.jit(draw_order).lower(key, number).compile()
    call = step if steps_at_once == 1 else several_steps
    compiled_call = jax.jit(call, donate_argnums=0).lower(carry, data, key, order, rho).compile()
    compiled_evaluate = jax.jit(evaluate).lower(carry, data, number).compile()
    return Program(
        data,
        steps_per_epoch,
        steps_at_once,
        test_batch,
        lambda key: compiled_begin(initialise(key)),
        compiled_order,
        compiled_call,
        compiled_evaluate,
        compile_seconds=time.perf_counter() - started,
    )


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


def ascent_of(settings: Settings, rho: Any, params: Any) -> optax.GradientTransformation:
    """The ascent of a method; one that changes nothing for the bare optimizer."""
    make_ascent = METHODS[settings.method]
    if make_ascent is None:
        return optax.identity()
    eta = ETA if settings.eta is None else settings.eta
    return make_ascent(rho, settings.quantile, filtered_tensors(params), eta)


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

    return jax.jit(initialise).lower(jax.random.key(0)).compile()
