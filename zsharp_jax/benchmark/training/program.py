"""What is compiled once for all seeds and rhos of a method: start, step and evaluation.

The images stay on the device as uint8; drawing a batch, crop, flip, both passes and the update are
one compiled step. Where several runs are trained at once, all that they hold has a leading axis.
"""

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zsharp_jax import SamInfo
from zsharp_jax.benchmark.datasets.images import Dataset
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training.at_once import Runs
from zsharp_jax.benchmark.training.device_data import DeviceData, on_device
from zsharp_jax.benchmark.training.one_run import Carry, OneRun
from zsharp_jax.benchmark.training.steps import MethodSteps
from zsharp_jax.models import MODELS

_MOST_TEST_IMAGES = 500  # evaluated at once
_MOST_STEPS = 100  # taken at once: the progress bar moves, and a Ctrl-C is noticed, between calls
_one_at_a_time = threading.Lock()  # programs are compiled in threads


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once for all seeds and rhos of a method.

    Attributes:
        data: The dataset on the device; one of the same shapes may stand in its place, and with
            `at_once` and images that are drawn for each run, those of all runs must.
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
        at_once: How many runs are trained at once. Then keys, carries, orders, rhos, and all that
            is returned have a leading axis of that length; None for one run without that axis.
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
    at_once: int | None = None


def compile_program(settings: Settings, dataset: Dataset, at_once: int | None = None) -> Program:
    """Compiles all that the runs of one method need; seed and rho of `settings` play no part.

    Args:
        settings: What to train.
        dataset: What to train on, at least a batch.
        at_once: How many runs that differ in seed and rho are trained at once; None for one.

    Returns:
        The compiled program, with the data on the device.

    Raises:
        RequestError: If the model does not take images of the size of the dataset's.
    """
    started = time.perf_counter()
    size = len(dataset.train_images)
    steps_per_epoch = size // settings.batch_size
    data = on_device(dataset)
    one_run, initialise = _one_run(settings, dataset, is_mapped=at_once is not None)
    steps_at_once = _steps_at_once(steps_per_epoch, settings.steps, jax.default_backend())
    call = one_run.step
    if steps_at_once > 1:
        call = functools.partial(one_run.several_steps, steps_at_once)

    runs = Runs(at_once, settings.draws_images)
    own = runs.own_data
    begin = runs.over(one_run.begin, True)
    draw_order = runs.over(functools.partial(one_run.draw_order, images=size), True, False)
    call = runs.over(call, True, own, True, True, True)
    evaluate, test = (runs.over(f, True, own, False) for f in (one_run.evaluate, one_run.test))

    number = np.int32(0)
    key, rho = runs.shapes((jax.eval_shape(jax.random.key, 0), np.float32(0)))
    variables, shapes = runs.shapes(initialise.out_info), runs.shapes(data) if own else data
    carry, order = jax.eval_shape(begin, variables), jax.eval_shape(draw_order, key, number)
    compiled_begin = jax.jit(begin).lower(variables).compile()
    compiled_test = None
    if data.judged != "test":
        compiled_test = jax.jit(test).lower(carry, shapes, number).compile()
    return Program(
        data,
        steps_per_epoch,
        steps_at_once,
        _MOST_TEST_IMAGES,
        lambda key: compiled_begin(runs.stacked(initialise, key)),
        jax.jit(draw_order).lower(key, number).compile(),
        jax.jit(call, donate_argnums=0).lower(carry, shapes, key, order, rho).compile(),
        jax.jit(evaluate).lower(carry, shapes, number).compile(),
        compiled_test,
        compile_seconds=time.perf_counter() - started,
        at_once=at_once,
    )


def _one_run(
    settings: Settings, dataset: Dataset, is_mapped: bool
) -> tuple[OneRun, jax.stages.Compiled]:
    """The functions of a run, and what makes its initial variables from its key."""
    model = MODELS[settings.model](num_classes=dataset.num_classes, dtype=jnp.dtype(settings.dtype))
    padding, flip = settings.crop_padding, settings.flip
    one_run = OneRun(
        model,
        MethodSteps(settings, len(dataset.train_images) // settings.batch_size),
        settings.batch_size,
        dataset.crop_padding if padding is None else padding,
        dataset.flip if flip is None else flip,
        _MOST_TEST_IMAGES,
        is_mapped,
    )
    return one_run, _initialiser(model, settings, dataset)


def _steps_at_once(steps_per_epoch: int, steps: int | None, platform: str) -> int:
    """See `Program`; `steps` is how many the run takes where it does not take whole epochs."""
    if platform == "cpu":  # where XLA convolves far more slowly inside a compiled loop
        return 1
    common = math.gcd(steps_per_epoch, steps or steps_per_epoch)
    return max(count for count in range(1, _MOST_STEPS + 1) if common % count == 0)


def _initialiser(model: nn.Module, settings: Settings, dataset: Dataset) -> jax.stages.Compiled:
    try:
        with _one_at_a_time:
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
