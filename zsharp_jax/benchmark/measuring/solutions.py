"""What a run came to: its last weights, with the loss of them as it is measured."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsharp_jax.benchmark.datasets.images import Dataset, load
from zsharp_jax.benchmark.datasets.obtain import Origin
from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.fields import DamagedError
from zsharp_jax.benchmark.runs.reading import Run
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.runs.sharpness import SPLITS
from zsharp_jax.benchmark.runs.weights import read_weights, weights_path
from zsharp_jax.benchmark.training.convolutions import quick_in_loops
from zsharp_jax.benchmark.training.images import RunImages
from zsharp_jax.models import MODELS

IMAGES = 1024  # that are measured on, where nothing else is asked for and as many are there
_AT_ONCE = 128  # for the sake of memory

Batch = tuple[jax.Array, ...]


class Solution(NamedTuple):
    """The weights of a run and the loss of them.

    Attributes:
        loss_fn: `loss_fn(params, batch_stats, *batch)`: the mean loss over the images of a batch
            that is taken in parts, see `parts`. The same object for all runs of a network.
        params: The weights.
        batch_stats: What BatchNorm normalises with; empty without BatchNorm.
        batches: For `train` and `test` what the loss is taken over.
    """

    loss_fn: Callable[..., jax.Array]
    params: Any
    batch_stats: Any
    batches: dict[str, Batch]

    def inputs(self, split: str) -> tuple[Any, ...]:
        """What the functions of `zsharp_jax.sharpness` take first."""
        return self.loss_fn, self.params, self.batch_stats, *self.batches[split]

    def parts(self, split: str) -> dict[str, Any]:
        """Their arguments that say in how many parts the batch is taken."""
        return {"microbatches": len(self.batches[split][0]) // _AT_ONCE, "batch_argnums": (2, 3, 4)}


class Solutions:
    """Loads the solutions of runs.

    Args:
        origin: Where datasets may come from.
        images: How many images of each split are measured on, the first ones; None for `IMAGES`, or
            all of a split with fewer.
    """

    def __init__(self, origin: Origin, images: int | None = None) -> None:
        if images is not None and images < 1:
            raise RequestError(f"`images` must be at least 1, got {images}")
        self._images = images
        self._dataset = functools.lru_cache(maxsize=1)(lambda name: RunImages(load(name, origin)))

    def counts(self, run: Run) -> dict[str, int]:
        """On how many images of each split a run is measured.

        Raises:
            RequestError: If there are not as many as were asked for.
            DamagedError: If the run is none of this version.
        """
        settings = dataclasses.replace(settings_of(run), seed=0, label_noise=0.0)
        return {
            split: self._count(split, len(getattr(dataset, f"{split}_images")))
            for dataset in [self._dataset(run.dataset).of(settings)]
            for split in SPLITS
        }

    def of(self, run: Run) -> Solution:
        """The solution of a run that kept its weights.

        Raises:
            DamagedError: If it cannot be had, in words that tell why.
        """
        settings, images = settings_of(run), self._dataset(run.dataset)
        if not images.sha256(settings).startswith(str(run.settings["data_sha256"])):
            raise DamagedError("it was trained on other images than those that are there")
        dataset = images.of(settings)
        variables = read_weights(
            weights_path(run.path.parent, run.path.stem), str(run.weights_sha256)
        )
        _check_shapes(settings, dataset, variables)
        params, batch_stats = jax.device_put([
            variables.get(name, {}) for name in ("params", "batch_stats")
        ])  # fmt: skip
        batches = {split: _batch(dataset, split, n) for split, n in self.counts(run).items()}
        loss_fn = _loss_of(MODELS[settings.model], dataset.num_classes)
        return Solution(loss_fn, params, batch_stats, batches)

    def _count(self, split: str, there: int) -> int:
        if self._images is not None and self._images > there:
            raise RequestError(
                f"`images` must be at most the {there} {split} images, got {self._images}"
            )
        return min(self._images or IMAGES, there)


def settings_of(run: Run) -> Settings:
    """The settings that a run was trained with.

    Raises:
        DamagedError: If this version does not know them.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    others = {name: value for name, value in run.settings.items() if name in known}
    unknown = run.settings.keys() - known - {"data_sha256", "steps_per_epoch"}
    if unknown:
        raise DamagedError(f"it has a setting of another version: {min(unknown)}")
    length: dict[str, Any] = {"epochs": None, "batch_size": 1, **others}
    try:
        return Settings(run.dataset, run.model, run.method, run.seed, **length)
    except (RequestError, TypeError) as error:
        raise DamagedError(str(error)) from None


@functools.cache
def _loss_of(model: Callable[..., nn.Module], classes: int) -> Callable[..., jax.Array]:
    network = model(num_classes=classes)  # in float32, whatever the run computed in

    def loss_fn(params, batch_stats, images, labels, shares):
        variables = {"params": params, "batch_stats": batch_stats}
        with quick_in_loops():
            logits = jnp.asarray(network.apply(variables, images, train=False))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(shares * losses)

    return loss_fn


def _batch(dataset: Dataset, split: str, count: int) -> Batch:
    """The first images of a split, their labels, and what share of a part's loss each has.

    They are filled up to whole parts with images that have no share.
    """
    rows = np.arange(-(-count // _AT_ONCE) * _AT_ONCE)
    means, stds = dataset.channel_statistics()
    images = (getattr(dataset, f"{split}_images")[rows % count] - means) / stds
    labels = getattr(dataset, f"{split}_labels")[rows % count]
    shares = np.where(rows < count, len(rows) / _AT_ONCE / count, 0)
    return tuple(jax.device_put([images.astype(np.float32), labels, shares.astype(np.float32)]))


def _check_shapes(settings: Settings, dataset: Dataset, variables: dict[str, Any]) -> None:
    network = MODELS[settings.model](num_classes=dataset.num_classes)
    image = jax.ShapeDtypeStruct((1, *dataset.train_images.shape[1:]), jnp.float32)
    initialise = functools.partial(network.init, train=False)
    wanted = jax.eval_shape(initialise, jax.eval_shape(jax.random.key, 0), image)
    if _shapes(wanted) != _shapes(variables):
        raise DamagedError(f"its weights are not those of a {settings.model} of this version")


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
