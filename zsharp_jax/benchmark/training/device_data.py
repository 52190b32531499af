"""A dataset on the device, or those of several runs that are trained at once."""

import functools
import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from zsharp_jax.benchmark.datasets.images import Dataset


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

    def size(self, name: str) -> int:
        """How many images `test` or `validation` has."""
        return self.split(name)[0].shape[-4]


_one_at_a_time = threading.Lock()  # programs are compiled in threads


def on_device(dataset: Dataset) -> DeviceData:
    """Moves a dataset to the device, with the mean and standard deviation of each channel."""
    with _one_at_a_time:
        return _on_device(dataset)


@functools.lru_cache(maxsize=1)  # for all methods that are trained on it
def _on_device(dataset: Dataset) -> DeviceData:
    return jax.device_put(_data_of(dataset))


@functools.lru_cache(maxsize=1)
def on_device_at_once(datasets: tuple[Dataset, ...]) -> DeviceData:
    """The same of the datasets of runs that are trained at once, with a leading axis."""
    made = functools.lru_cache(_data_of)  # runs of one seed have one dataset
    return jax.device_put(jax.tree.map(lambda *parts: np.stack(parts), *map(made, datasets)))


def _data_of(dataset: Dataset) -> DeviceData:
    means, stds = (part.reshape(1, 1, 1, -1) for part in dataset.channel_statistics())
    arrays: list[Any] = [getattr(dataset, name) for name in DeviceData._fields[:6]]
    statistics: list[Any] = [means, stds]
    return DeviceData(*arrays, *statistics)
